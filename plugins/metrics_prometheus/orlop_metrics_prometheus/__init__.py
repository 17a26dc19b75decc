"""Metrics for Prometheus, at `metrics-addr`. Counters start at zero after a restart.

The engine only has `counters`, plain numbers that are always counted. The other modules are imported only if `metrics-addr`
is set: `registry` contains the text formats, `collect` the metrics, and `serve` answers `GET /metrics`.
"""
