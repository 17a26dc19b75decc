"""A terminal or two pipes on one side, a container or an exec on the other."""
