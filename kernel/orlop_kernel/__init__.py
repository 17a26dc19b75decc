"""Orlop's kernel: the daemon `orlopd` without containers: boot, configuration, plugins, HTTP, events, store."""

__version__ = "0.1.0"
