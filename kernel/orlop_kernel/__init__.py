"""Orlop's kernel: the daemon `orlopd` without containers: its start, configuration, plugins, HTTP, events, store."""

__version__ = "0.1.0"
