"""The consistency check, `orlop system check`: collects the findings of the plugins that keep state, prints them, and lets
these plugins repair them.

This package does not depend on the files or rows of other parts. A service, front end or guard that keeps state has a plugin
of kind `check` (`orlop_kernel.kinds.Check`). This package only checks the database itself. `online` repeats the check,
because operations of a running daemon may be in progress. `offline` locks the data root and the exec root instead.

The check keeps no state. The crash tests use the check to find inconsistencies.
"""
