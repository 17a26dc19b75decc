"""Startup and process setup of the daemon: log, pid file, listening sockets, systemd.

Small modules that `daemon` composes; none of them knows the engine.
"""
