"""Docker's objects: containers, images, networks, volumes and execs.

`engine` creates and closes the services. Each service is a package or a module (`execs`, `logs`). `drivers` puts a deadline
on every driver call, `unpacking` runs workers forked by the zygote, `reload` applies a new configuration. This package does
not depend on HTTP. Containers keep running without it, because their monitors (`orlop_monitor`) are separate processes.
"""
