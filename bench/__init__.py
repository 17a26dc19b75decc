"""`./dev bench`: Orlop beside dockerd (and podman) on this machine, in one run, measured in turn, printed as ratios."""
