"""The engine's services for builders: steps (containers without a row), snapshots, and images made from snapshots.

The keys of a builder's snapshots begin with `build-`. The same snapshot can be used by images and by the build cache
(`snapshots`). All objects that a builder is using belong to its `Workspace`, and are released when the workspace is closed.

This package is imported when a builder is first used, or when the daemon starts and finds rows of a builder.
"""
