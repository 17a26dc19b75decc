"""Each template is installed with pip, and its driver passes the conformance suite by `orlop driver check`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop_driver_tools.new import KINDS, project

VARIANTS = {kind: (kind, False) for kind in KINDS} | {"log_service": ("log", True)}
NAMES = {variant: f"new-{variant.replace('_', '-')}" for variant in VARIANTS}

Orlop = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the projects of all templates, and `site`, in which they are installed."""
    top = tmp_path_factory.mktemp("new")
    for variant, (kind, service) in VARIANTS.items():
        project(kind, NAMES[variant], service=service).write(top / variant)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    projects = [str(top / variant) for variant in VARIANTS]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(top / "site"), *projects], check=True, timeout=120)
    return top


@pytest.fixture
def orlop(home: Path) -> Orlop:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "orlop_cli", *words]
        env = {**os.environ, "PYTHONPATH": str(home / "site")}
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=200, check=False)

    return run


@pytest.mark.timeout(240)
def test_driver_list_shows_installed_drivers(orlop: Orlop) -> None:
    done = orlop("driver", "list")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    for variant, (kind, _) in VARIANTS.items():
        assert [kind, NAMES[variant], f"orlop-{kind}-{NAMES[variant]}", "0.1.0", "ok"] in rows


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["log", "storage", "volume"])
def test_new_driver_from_a_template_passes_the_driver_check(orlop: Orlop, kind: str) -> None:
    done = orlop("driver", "check", NAMES[kind], "--timeout", "180")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed  " in done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.root
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("kind", "path"), [("network", ""), ("runtime", "/usr/sbin/runc")])
def test_new_driver_from_a_template_passes_the_driver_check_as_root(orlop: Orlop, kind: str, path: str) -> None:
    done = orlop("driver", "check", NAMES[kind], "--path", path, "--timeout", "180")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed  " in done.stdout
    assert "FAILED" not in done.stdout


@pytest.mark.timeout(240)
def test_new_log_driver_for_a_service_passes_the_tests_of_its_template(orlop: Orlop, home: Path) -> None:
    tests = home / "log_service" / "tests" / "test_new_log_service.py"
    done = orlop("driver", "check", NAMES["log_service"], "--tests", str(tests), "--timeout", "180")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed  lines arrive after the service was down" in done.stdout


@pytest.mark.timeout(240)
def test_new_project_from_a_template_passes_the_tests_of_its_template(home: Path) -> None:
    """Runs pytest in the project's directory, as the project's README.md says."""
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": str(home / "site")}
    done = subprocess.run(argv, cwd=home / "volume", env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
