"""The engine's part of the consistency check. It finds differences between database rows, files, monitors, drivers and the
kernel.

`gather` reads the state without changing it and returns it as one value, `facts.Facts`. `rows`, `files` and `runs` compare
these facts and return findings, without I/O. `repair` removes objects without a row and corrects counters, and never changes
data that a user may have written. `live` replaces the repair steps that can conflict with a running engine. `plugin`
combines these parts.
"""
