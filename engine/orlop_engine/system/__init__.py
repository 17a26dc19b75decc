"""Facts about the host and the programs that Orlop runs, disk usage, and checks of registry credentials."""
