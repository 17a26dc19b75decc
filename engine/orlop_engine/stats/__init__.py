"""What running containers use: read from their cgroups, told to any number of viewers."""
