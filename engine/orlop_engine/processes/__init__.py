"""The daemon's side of the processes that outlive it: the zygote, the monitors, and the files they leave on disk.

A running container needs nothing in this package. The daemon may die at any time: the next one finds the monitors again
by `MonitorClient.adopt`.
"""
