"""The engine's services for builders: steps (containers without a row), snapshots, and images made from snapshots.

A builder's snapshots have keys that begin with `build-`; images share them with the build cache (`snapshots`). Everything
that a builder is using belongs to its `Workspace`, and is released when the workspace is closed.

This package is imported when a builder is first used, or when the daemon starts and finds rows of a builder.
"""
