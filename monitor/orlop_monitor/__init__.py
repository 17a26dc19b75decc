"""The process that owns a container, and outlives the daemon.

Who owns what: a monitor is subreaper and parent of one container. It holds the container's mount namespace, its network
namespace (an fd), its standard streams, its log writer and its listeners. Names on the host own nothing: when container and
monitor are gone, mounts, namespace and veth are gone too.

What survives: the death of `orlopd` changes nothing here; a later daemon finds `monitor.json` in the run directory, checks
pid and start time, and connects to `sock`. The death of the monitor is the container's: the zygote, its parent, empties
the container's cgroups and writes `exit.json` in its stead. The death of the zygote alone changes nothing for monitors;
the death of both leaves a container that the next daemon finds by `init.json`, kills and records.

`main` wires a monitor together from:

where it comes from  `zygote`, with `forking`, `orphans`, `sealed`, `sharing`, `title`
what is around it    `sandbox`, with `mounting`, `mountinfo`, `staging`, `cgroups`, `oom`
what runs            `container` and `execs`, both of `task`, by `commands`
its output           `streams`, with `console`; `logs`, with `lines` and `ring`
its network          `forward` (published ports), `dns`
what is said         `protocol`, over `connection` and `channel`, on `loop`
what is left behind  `records`, by `smallfiles`
"""
