"""Metrics for Prometheus, at `metrics-addr`. Counters start at zero after a restart.

The engine only knows its `counters`: plain numbers, always counted. The rest is imported only when there is a
`metrics-addr`: `registry` has the text formats, `collect` the metrics, `serve` answers `GET /metrics`.
"""
