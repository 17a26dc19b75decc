"""`./dev bench`: compares Orlop with dockerd (and podman) on this machine and prints ratios."""
