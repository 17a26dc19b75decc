"""The consistency check, `orlop system check`: collects what the owners of state find, prints it and has it repaired.

It knows no other part's files or rows. A service, front end or guard that has state brings a plugin of kind `check`
(`orlop_kernel.kinds.Check`); the state of the database itself is reported here. `online` repeats the check, because
operations of a running daemon are in progress; `offline` holds the locks of both roots instead.

It keeps no state of its own. The crash tests use it as their oracle.
"""
