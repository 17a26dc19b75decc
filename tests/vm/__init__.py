"""A virtual machine with systemd and pure cgroup v2, for what containers and CI machines cannot show. `./dev vm` runs it."""
