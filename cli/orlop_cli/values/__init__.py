"""What people type and read: sizes, times, ports, references of images, values of flags."""
