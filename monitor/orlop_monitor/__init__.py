"""The monitor: the process that owns a container, and continues when the daemon ends.

Ownership: a monitor is the subreaper and parent of one container. It owns the container's mount namespace, network namespace
(which a descriptor keeps open), standard streams, log writer and listeners. No file or name on the host keeps them alive:
when the container and the monitor have ended, the kernel destroys the mounts, the namespaces and the veth pair.

When `orlopd` dies, the monitor continues. A later daemon finds `monitor.json` in the run directory, checks pid and start
time, and connects to `sock`. When the monitor dies, its parent, the zygote, kills the processes in the container's cgroups
and writes `exit.json`. When the zygote dies, monitors continue. When both a monitor and the zygote die, the next daemon
finds the container by `init.json`, kills it and records its exit.

Modules (`main` connects them):

start       `zygote`, with `forking`, `orphans`, `sealed`, `sharing`, `title`
sandbox     `sandbox`, with `mounting`, `staging`, `oom`
processes   `container` and `execs`; both use `task` and `commands`
output      `streams`, with `console`; `logs`, with `lines` and `ring`
network     `forward` (published ports), `dns`
protocol    `protocol`, over `connection` and `channel`, on `loop`
run files   `records`
"""
