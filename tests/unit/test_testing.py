"""`orlop_sdk.testing` for driver authors: every name exists, and importing the package is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest

import orlop_sdk.testing


def _loaded_by(code: str) -> set[str]:
    code += "\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("name", orlop_sdk.testing.__all__)
def test_every_public_name_of_the_testing_package_exists(name: str) -> None:
    assert getattr(orlop_sdk.testing, name) is not None
    assert name in dir(orlop_sdk.testing)


def test_unknown_name_in_the_testing_package_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuite'"):
        orlop_sdk.testing.NoSuite  # noqa: B018


def test_import_of_the_testing_package_loads_no_conformance_suite() -> None:
    assert not {"pytest", "trio", "orlop_sdk.testing.log"} & _loaded_by("import orlop_sdk.testing")


def test_conformance_suite_of_one_driver_kind_does_not_load_the_suites_of_other_kinds() -> None:
    loaded = _loaded_by("from orlop_sdk.testing import LogSuite")
    assert "orlop_sdk.testing.log" in loaded
    assert not {"trio", "orlop_sdk.testing.storage", "orlop_sdk.testing.network"} & loaded


def test_daemon_does_not_load_the_testing_package() -> None:
    code = "import orlop_kernel.daemon, orlop_engine.engine, orlop_monitor.main, orlop_monitor.unpack.worker"
    code += "\nfrom orlop_api_docker import containers, exec, images, networks, system, volumes"
    assert not {"pytest", "orlop_sdk.testing"} & _loaded_by(code)
