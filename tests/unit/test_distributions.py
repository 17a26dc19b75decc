"""Every distribution works with only its declared dependencies, as in a new virtual environment."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import runpy
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

TOP = Path(__file__).parents[2]
PROJECTS = {path.parent: tomllib.loads(path.read_text())["project"] for path in TOP.glob("*/pyproject.toml")} | {
    path.parent: tomllib.loads(path.read_text())["project"] for path in TOP.glob("plugins/*/pyproject.toml")
}
OURS = {project["name"]: directory for directory, project in PROJECTS.items()}

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path[:0] = [sys.argv[1]]
package = importlib.import_module(sys.argv[2])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not {"networking", "testing", "trees", "__main__"} & set(module.name.split(".")):  # those need an extra of the sdk
        importlib.import_module(module.name)
"""


def _package(directory: Path) -> Path:
    return next(path for path in directory.glob("orlop_*") if path.is_dir())


def _requirements(name: str) -> list[str]:
    if name in OURS:
        return list(PROJECTS[OURS[name]]["dependencies"])
    return metadata.distribution(name).requires or []


def _closure(name: str) -> Iterator[str]:
    """The distribution and its dependencies, direct and indirect, without extras."""
    seen, waiting = set[str](), [name]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        yield one
        for text in _requirements(one):
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(wanted.name)


def _install(name: str, site: Path) -> None:
    """Link the distribution's top-level packages into `site`, like an installer."""
    distribution = metadata.distribution(name)
    if name in OURS:
        package = _package(OURS[name])
        os.symlink(package, site / package.name)
        info = f"{package.name}-{distribution.version}.dist-info"
        os.symlink(distribution.locate_file(info), site / info)
        return
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = site / top
        if not target.exists():
            os.symlink(distribution.locate_file(top), target)


TEST = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import pytest
sys.exit(pytest.main(sys.argv[3:]))
"""
TOOLS = ("pytest", "pytest-timeout", "hypothesis")
"""Packages that tests may use in addition to the requirements of their distribution. The sdk's tests use its extra
`testing`. The monitor's tests run without trio, like the monitor."""


@pytest.mark.parametrize("name", sorted(OURS))
def test_distribution_can_be_imported_with_only_its_dependencies(name: str, tmp_path: Path) -> None:
    for one in _closure(name):
        _install(one, tmp_path)
    program = [sys.executable, "-I", "-S", "-c", IMPORT_ALL, str(tmp_path), _package(OURS[name]).name]
    done = subprocess.run(program, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


@pytest.mark.alone
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", sorted(name for name, directory in OURS.items() if (directory / "tests").is_dir()))
def test_distribution_passes_its_tests_with_only_its_dependencies(name: str, tmp_path: Path) -> None:
    """Runs the tests that need no root."""
    site = tmp_path / "site"
    site.mkdir()
    tools = TOOLS if name == "orlop-monitor" else (*TOOLS, "trio")
    for one in sorted({each for wanted in (name, *tools) for each in _closure(wanted)}):
        _install(one, site)
    tests = OURS[name] / "tests"
    options = ["-q", "-m", "not root", "-c", str(TOP / "pyproject.toml"), f"--confcutdir={tests}", "-p", "no:cacheprovider"]
    options.append("--hypothesis-profile=ci")  # without deadlines, because the machine may be busy
    with tempfile.TemporaryDirectory(prefix="o") as short:  # short, because a socket's path has at most 107 bytes
        argv = ["-c", TEST, str(site), str(tests), *options, f"--basetemp={short}/t", str(tests)]
        done = subprocess.run([sys.executable, "-I", "-S", *argv], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (0, 5), done.stdout[-8000:] + done.stderr  # 5: no test was run, because all need root


def test_metapackage_requires_all_distributions_at_one_version() -> None:
    whole = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert {project["version"] for project in PROJECTS.values()} == {whole["version"]}
    hook = runpy.run_path(str(TOP / "packaging/dependencies.py"))
    assert set(hook["dependencies"](TOP, release=True)) == {f"{name}=={whole['version']}" for name in OURS}
    in_place = {
        each.partition(" @ ")[0]: each.partition(" @ file://")[2] for each in hook["dependencies"](TOP, release=False)
    }
    assert in_place.keys() == set(OURS)
    assert all(Path(path, "pyproject.toml").exists() for path in in_place.values())


def test_daemon_imports_no_http_client_at_the_start() -> None:
    """The import of httpx, rich and click would take a third of the time of a start."""
    program = (
        "import sys, orlop_kernel.daemon, orlop_engine.service, orlop_api_docker.plugin, orlop_guard_listeners.service\n"
        "import orlop_check.plugin, orlop_metrics_prometheus.plugin\n"
        "print([name for name in sys.modules if name in ('httpx', 'rich', 'click', 'yaml', 'cryptography', 'pyroute2')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
