"""Whether everything that should agree agrees: database, files, monitors, drivers and the kernel. `orlop system check`.

`gather` looks, and changes nothing; what it saw is one value, `facts.Facts`. `rows`, `files` and `runs` compare: pure
functions from facts to `findings`. `online` looks again and again, because beside a daemon at work much is half-way;
`offline` holds both roots' locks instead. `repair` removes what belongs to no row and puts counters right, and never
touches what a user may have written.

Owns nothing that survives anything. It is also the oracle of the crash tests.
"""
