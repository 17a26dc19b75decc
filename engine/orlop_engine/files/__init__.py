"""Files in and out of containers: `docker cp`, export, diff, commit.

Workers of the zygote do it (see `unpack`), with the container's files for their root: nothing here opens a path that a
container has a say in. Nothing of it outlives its request.
"""
