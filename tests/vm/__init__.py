"""A virtual machine with systemd and pure cgroup v2, for tests that containers and CI machines cannot run. See `./dev
vm`."""
