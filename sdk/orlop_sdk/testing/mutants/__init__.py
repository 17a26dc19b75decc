"""Mutants: drivers with one fault each. The conformance suites must find these faults.

Each `Mutant` is one of the fakes with a changed method, and names the check that must fail. `python -m
orlop_sdk.testing.mutants KIND` runs the check of each mutant, and prints the mutants that no check has found. If you add a
check to a suite, add a mutant that only this check finds.
"""

from __future__ import annotations

from ._change import Mutant

__all__ = ["KINDS", "Mutant", "mutants"]

KINDS = ("log", "log_service", "network", "runtime", "storage", "volume")


def mutants(kind: str) -> tuple[Mutant, ...]:
    """The mutants of a kind."""
    from importlib import import_module

    found: tuple[Mutant, ...] = import_module(f"{__name__}._{kind}").MUTANTS
    return found
