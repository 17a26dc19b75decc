"""Copying files into and out of containers: `docker cp`, export, diff, commit.

Workers read and write the files. The zygote forks a worker for each request (see `unpack`), and the worker uses the
container's files as its root directory. So the daemon itself never opens a path that a container controls. A worker ends
with its request.
"""
