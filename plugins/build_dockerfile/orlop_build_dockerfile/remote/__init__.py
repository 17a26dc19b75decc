"""Caches outside of the daemon: in registries, in directories of clients, in images.

config.py    BuildKit's format
keys.py      keys of steps that are the same on every daemon
imports.py   caches that a build may use
exports.py   exports the results of a build to caches
chains.py    layers of a cache as snapshots
steps.py     imports and exports of one job
buildkit.py buildkit_steps.py contents.py    BuildKit's keys, and the steps of a job in caches that BuildKit has made

The format is the same as BuildKit's (cache/remotecache/v1/doc.go), so Orlop can read BuildKit's caches and BuildKit can read
Orlop's. Exported records have Orlop's own keys, so BuildKit finds no steps in Orlop's caches.
"""
