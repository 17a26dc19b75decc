"""Containers, from the create request to the removal. A container's row in table `containers` is authoritative. After a
crash, the next daemon records the exits of containers that ended while no daemon ran. It also removes files and directories
that belong to no row.

Operations are functions. A function takes a container and a `Ports` object (see the module `ports`), or only the attributes
of this object that the function needs.

data                 `index`, `container`, `record`, `state`, `rows`, `paths`, `events`, `names`, `labels`
dependencies         `ports`, `services` (the other services, as Protocols), `background`
create               `create`, with `configuration`, `validate`, `limits`, `entry_limits`, `mount_spec`, `volumes`,
                     `links`, `rootfs`
start                `launch`, with `prepared_sandbox`, `bundle`, `apparmor_profile`, `devices`, `mount_plan`, `netfiles`,
                     `runtime`, `needs`, `monitor_events`
running              `lifecycle` (start, restart, rename), `stopping`, `signals`, `pausing`, `waits`, `attach`,
                     `connections`, `probes` and `health`, `update`, `checkpoints`, `processes`
exit and removal     `exits`, `restarts`, `run_cleanup`, `removal`
daemon restart       `restore`, `adoption`, `reload_constraints`
inspect and list     `details`, `listing`, `log_info`
front ends           `service`
"""
