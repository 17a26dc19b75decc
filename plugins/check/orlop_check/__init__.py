"""The consistency check: compares database, files, monitors, drivers and kernel state. `orlop system check`.

`gather` reads the state without changing it and returns it as one value, `facts.Facts`. `rows`, `files` and `runs` compare:
pure functions from facts to `findings`. `online` repeats the check, because operations of a running daemon are in progress;
`offline` holds the locks of both roots instead. `repair` removes objects without a row and corrects counters, and never
touches data that a user may have written.

It keeps no state of its own. The crash tests use it as their oracle.
"""
