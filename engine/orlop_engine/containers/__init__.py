"""Containers: from the request to create one to the last trace of it. The row in the table `containers` is the truth; what a
crash leaves is swept, or accounted for, by the next boot.

what there is        `service` (the index and the door), `container`, `record`, `names`, `labels`
made                 `create`, with `validate`, `limits`, `mounts`, `volumes`, `links`, `rootfs`
started              `launch`, with `ahead`, `bundle`, `confine`, `devices`, `mounted`, `netfiles`, `runtime`
while it runs        `lifecycle`, `attach`, `health`, `update`, `checkpoints`
ended and removed    `exits`, `restarts`, `removal`
over a daemon's end  `restore`, `adoption`, `living`
shown                `view`, `listing`
"""
