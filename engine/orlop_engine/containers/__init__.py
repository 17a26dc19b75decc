"""Containers: from the create request to the removal of everything that belongs to a container. The row in table
`containers` is authoritative; the next boot accounts for, or removes, what a crash leaves behind.

index                `service` (the index and the entry points), `container`, `record`, `names`, `labels`
create               `create`, with `validate`, `limits`, `counts`, `mount_spec`, `volumes`, `links`, `rootfs`
start                `launch`, with `prepared_sandbox`, `bundle`, `apparmor_profile`, `devices`, `mount_plan`, `netfiles`,
                     `runtime`, `needs`
running              `lifecycle`, `attach`, `health`, `update`, `checkpoints`
exit and removal     `exits`, `restarts`, `removal`
daemon restart       `restore`, `adoption`, `reload_constraints`
inspect and list     `view`, `listing`
"""
