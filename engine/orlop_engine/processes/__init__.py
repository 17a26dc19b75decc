"""The daemon's side of the processes that outlive it (the zygote and the monitors) and of the files that they leave on
disk.

A running container does not depend on this package. The daemon may die at any time. The next daemon connects to the monitors
again with `MonitorClient.adopt`.
"""
