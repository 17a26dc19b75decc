"""Soak tests: after load, and after clients that disconnect at any moment, a daemon must use the same resources as before.

`work` has the operations, `census` counts resources, `memory` measures memory growth, and `run` combines them. `./dev soak`
runs the long form and prints tables; `test_soak.py` is the short form that runs with the tests.
"""
