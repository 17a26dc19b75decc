"""What Docker means by container, image, network, volume and exec.

`engine` makes the services and closes them; each is a room, or a module where one is enough (`execs`, `logs`, `top`).
`drivers` puts a deadline before every driver, `unpacking` asks workers of the zygote, `reload` takes a new configuration.
Nothing here knows of HTTP, and nothing keeps a container running: that is its monitor's.
"""
