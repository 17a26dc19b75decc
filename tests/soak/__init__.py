"""Soak: a daemon is worked hard and rudely, and must hold afterwards what it held before.

`work` is what is done to it, `census` what it holds, `memory` how its processes grew meanwhile, `run` one after the other.
`./dev soak` does it at length and prints tables; `test_soak.py` is the short form that runs with the tests.
"""
