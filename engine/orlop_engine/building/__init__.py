"""What a builder needs of the engine: steps (containers without a row), snapshots, and images made of these.

A builder's snapshots have keys that begin with `build-`; images share them with the build cache (`snapshots`). Everything
that a builder has in use belongs to its `Workspace`, and is released when that is closed.

This package is imported when a builder is first used, or by a boot that finds rows of one.
"""
