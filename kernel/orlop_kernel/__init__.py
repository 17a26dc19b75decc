"""Orlop's kernel: the daemon, the contracts that drivers implement, and the monitors that outlive it."""

__version__ = "0.1.0"
