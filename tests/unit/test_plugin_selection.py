"""Keys and checks are selected with the service, front end or guard of the same name."""

from __future__ import annotations

from orlop_kernel import assembly
from orlop_kernel.config import Config
from orlop_kernel.config.keys import Schema


def test_consistency_checks_are_those_of_the_selected_plugins() -> None:
    assert {"engine", "listeners"} <= assembly.check_plugins(Config()).keys()
    assert list(assembly.check_plugins(Config(services=("engine",), guards=()))) == ["engine"]
    assert list(assembly.check_plugins(Config(services=(), front_ends=("check",), guards=()))) == []


def test_configuration_keys_are_those_of_the_selected_plugins() -> None:
    found = Schema.select({"services": ["engine"], "front-ends": [], "guards": ["listeners"]}).owners
    assert (found["bip"], found["audit-log"], found["hosts"]) == ("engine", "listeners", "")
    assert not {"metrics-addr", "min-api-version"} & found.keys()
