"""The engine's part of the consistency check: do database rows, files, monitors, drivers and the kernel agree?

`gather` reads the state without changing it and returns it as one value, `facts.Facts`. `rows`, `files` and `runs` compare:
pure functions from facts to findings. `repair` removes objects without a row and corrects counters, and never touches
data that a user may have written. `live` replaces the steps that could conflict with a running engine. `plugin` combines
these parts.
"""
