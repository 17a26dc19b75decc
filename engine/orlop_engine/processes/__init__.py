"""The daemon's view of the processes that outlive it: the zygote, the monitors, and what they leave on disk.

Nothing here is needed by a running container: all of it may die with the daemon, and is found again by `Monitor.adopt`.
"""
