"""Orlop's kernel: start, configuration, plugins, HTTP, events and store of `orlopd`. It contains no code for containers."""

__version__ = "0.1.0"
