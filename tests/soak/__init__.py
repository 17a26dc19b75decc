"""Soak tests: a daemon under load and with rude clients must hold the same resources afterwards as before.

`work` has the operations, `census` counts resources, `memory` measures memory growth, and `run` combines them. `./dev soak`
runs the long form and prints tables; `test_soak.py` is the short form that runs with the tests.
"""
