"""The conformance suites find the faults of the mutants, and each check finds at least one fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from orlop_sdk.testing.mutants import KINDS, mutants
from orlop_sdk.testing.mutants._suites import suite

NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
"""Without root, the suites make no mounts, and are ten times faster."""

WITHOUT_A_MUTANT = {
    "storage": {
        "test_layers_are_accepted_as_stream_and_directory": "the fake does not implement LayerStream",
        "test_failed_stream_can_be_written_again": "the fake does not implement LayerStream",
        "test_commit_sets_the_parent_of_a_layer": "the fake does not implement LayerRebase",
        "test_commit_on_refuses_another_parent_and_ignores_duplicates": "the fake does not implement LayerRebase",
        "test_concurrent_commit_and_removal_of_a_parent_conflict": "the fake does not implement LayerRebase",
    }
}
"""Checks without a mutant, and the reason."""


@pytest.mark.timeout(600)  # hundreds of processes, on a busy machine
@pytest.mark.parametrize("kind", KINDS)
def test_conformance_suite_detects_every_mutant(kind: str) -> None:
    command = [sys.executable, "-m", "orlop_sdk.testing.mutants", kind]
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env=environment, timeout=600, check=False, **NOBODY
    )
    found = json.loads(done.stdout.splitlines()[-1] if done.stdout else f'{{"error": {json.dumps(done.stderr[-2000:])}}}')
    assert (found.get("survivors"), found.get("unsound")) == ([], []), found
    assert found["mutants"] == len(mutants(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_test_of_a_conformance_suite_has_a_mutant(kind: str) -> None:
    checks = {name for name in dir(suite(kind)) if name.startswith("test_")}
    assert checks - {mutant.check for mutant in mutants(kind)} == set(WITHOUT_A_MUTANT.get(kind, ()))
    assert {mutant.check for mutant in mutants(kind)} <= checks


def test_mutants_of_a_driver_kind_have_different_faults() -> None:
    for kind in KINDS:
        faults = [(mutant.fault, mutant.check) for mutant in mutants(kind)]
        assert len(set(faults)) == len(faults)
    assert sum(len(mutants(kind)) for kind in KINDS) >= 180
