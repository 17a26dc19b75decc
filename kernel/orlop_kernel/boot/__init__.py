"""Startup and process setup of the daemon: log, pid file, listening sockets, systemd.

The module `orlop_kernel.daemon` calls these small modules. None of them imports the engine.
"""
