"""Docker's objects: containers, images, networks, volumes and execs.

`engine` creates and closes the services. Each service is a package, or a module if that is enough (`execs`,
`logs`). `drivers` puts a deadline on every driver call, `unpacking` runs workers forked by the zygote, `reload` applies a
new configuration. This package does not depend on HTTP, and does not keep containers running: their monitors do.
"""
