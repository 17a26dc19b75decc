"""Orlop's kernel: the general parts of `orlopd` (start, configuration, plugins, HTTP, events, store), without containers."""

__version__ = "0.1.0"
