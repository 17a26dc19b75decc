"""Containers: from the create request to the removal of everything that belongs to a container. The row in table
`containers` is authoritative; the next boot accounts for, or removes, what a crash leaves behind.

Operations are functions. They take a container and `ports.Ports`, or the few ports that they need.

what there is        `index`, `container`, `record`, `state`, `rows`, `paths`, `events`, `names`, `labels`
what they need       `ports`, `services` (the other services, as Protocols), `background`
create               `create`, with `configuration`, `validate`, `limits`, `counts`, `mount_spec`, `volumes`, `links`,
                     `rootfs`
start                `launch`, with `prepared_sandbox`, `bundle`, `apparmor_profile`, `devices`, `mount_plan`, `netfiles`,
                     `runtime`, `needs`, `monitor_events`
running              `lifecycle` (start, restart, rename), `stopping`, `signals`, `pausing`, `waits`, `attach`,
                     `connections`, `probes` and `health`, `update`, `checkpoints`, `processes`
exit and removal     `exits`, `restarts`, `run_cleanup`, `removal`
daemon restart       `restore`, `adoption`, `reload_constraints`
inspect and list     `details`, `listing`, `log_info`
front ends           `service`
"""
