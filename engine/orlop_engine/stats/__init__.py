"""Resource usage of running containers, read from their cgroups and sent to any number of viewers."""
