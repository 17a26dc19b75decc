"""Copying files into and out of containers: `docker cp`, export, diff, commit.

Workers forked by the zygote do the work (see `unpack`), with the container's files as their root: the daemon never opens
a path that a container controls. No worker outlives its request.
"""
