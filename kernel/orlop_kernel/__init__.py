"""Orlop's kernel: the parts of `orlopd` that know no containers (start, configuration, plugins, HTTP, events, store)."""

__version__ = "0.1.0"
