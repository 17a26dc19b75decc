"""Caches outside of the daemon: in registries, in directories of clients, in images.

config.py    BuildKit's format
keys.py      keys of steps that are the same on every daemon
imports.py   caches that a build may use
exports.py   exports the results of a build to caches
chains.py    layers of a cache as snapshots
steps.py     imports and exports of one job
buildkit.py contents.py                   BuildKit's keys of steps and of files
buildkit_steps.py buildkit_records.py     the steps of a job in caches of BuildKit, and in exported caches

The format is the same as BuildKit's (cache/remotecache/v1/doc.go). An exported result has one or two records. The first has
Orlop's own key, which covers the inputs. If BuildKit has a key for the step, there is a second record with this key, which
names the records of the inputs.
"""
