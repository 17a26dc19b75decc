"""Metrics for Prometheus, at `metrics-addr`. Nothing of it survives a restart, as is the way of counters.

`tally` is all that the engine knows of it: plain numbers, counted whether or not anybody asks. The rest is imported only
when there is a `metrics-addr`: `registry` is the text formats, `collect` says what there is, `serve` answers `GET /metrics`.
"""
