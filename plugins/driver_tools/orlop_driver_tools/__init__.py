"""Commands of the client for authors of drivers: `orlop driver list`, `new` and `check`.

`templates` has a complete driver for each kind, with its test. `new` copies a template and replaces `mydriver` by the
driver's name. `check` runs the conformance suite of `orlop_sdk.testing` for an installed driver in another process (`run`).
As root, this process has new namespaces, so that the driver under test does not change the host's mounts and network.
"""
