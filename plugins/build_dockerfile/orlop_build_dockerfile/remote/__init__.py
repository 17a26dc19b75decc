"""Caches outside of the daemon: in registries, in directories of clients, in images.

config.py    BuildKit's format                keys.py      keys of steps that are the same on every daemon
imports.py   caches that a build may use      exports.py   what a build gives to caches
chains.py    layers of a cache as snapshots   steps.py     both ends, for a job

The format is BuildKit's (cache/remotecache/v1/doc.go): Orlop and BuildKit read each other's caches. The keys are Orlop's, so
neither finds its steps in a cache of the other.
"""
