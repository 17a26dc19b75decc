"""The daemon's side of the processes that outlive it (the zygote and the monitors) and of the files that they leave on
disk.

A running container needs nothing in this package. The daemon may die at any time: the next daemon finds the monitors
again by `MonitorClient.adopt`.
"""
