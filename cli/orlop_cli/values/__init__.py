"""Notations that people type and read: sizes, times, ports, image references, flag values."""
