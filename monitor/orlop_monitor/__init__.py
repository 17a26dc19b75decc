"""The process that owns a container, and outlives the daemon.

Ownership: a monitor is the subreaper and parent of one container. It holds the container's mount namespace, its network
namespace (a descriptor), its standard streams, its log writer and its listeners. None of them is pinned by a name on the
host: when the container and the monitor are gone, the mounts, the namespace and the veth pair are gone too.

When `orlopd` dies, the monitor continues. A later daemon finds `monitor.json` in the run directory, checks pid and start
time, and connects to `sock`. When the monitor dies, its parent, the zygote, kills the processes in the container's cgroups
and writes `exit.json`. When the zygote dies, monitors continue. When a monitor and the zygote die, the next daemon finds the
container by `init.json`, kills it and records its exit.

Modules, put together by `main`:

start       `zygote`, with `forking`, `orphans`, `sealed`, `sharing`, `title`
sandbox     `sandbox`, with `mounting`, `staging`, `oom`
processes   `container` and `execs`; both use `task` and `commands`
output      `streams`, with `console`; `logs`, with `lines` and `ring`
network     `forward` (published ports), `dns`
protocol    `protocol`, over `connection` and `channel`, on `loop`
run files   `records`
"""
