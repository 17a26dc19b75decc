"""Compares orlopd with a real dockerd: the same Dockerfiles give the same images, and the same errors.

The builds of all selected tests run in the background, a few at a time, while the tests wait for theirs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.integration.building.cases import CASES, CLASSIC, context
from tests.integration.building.clients import remove_cgroups
from tests.integration.building.compared import classic_outcome, docker, outcome
from tests.integration.building.server import serve
from tests.integration.engine import patience
from tests.integration.parity import Side, differences

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

_AT_ONCE = 4


class Builds:
    """The outcome of each build in both engines."""

    def __init__(self, sides: tuple[Side, Side], directory: Path, http: str, pool: ThreadPoolExecutor) -> None:
        self._sides, self._directory, self._http, self._pool = sides, directory, http, pool
        self._outcomes: dict[str, list[Future[Any]]] = {}
        self.names: list[str] = []

    def start(self, name: str, *, classic: bool) -> None:
        key = f"{'classic' if classic else 'built'}-{name}"
        directory = self._directory / key / "context"
        context(directory, CASES[name], self._http)
        build = classic_outcome if classic else outcome
        self._outcomes[key] = [
            self._pool.submit(build, side.path, directory, CASES[name], key, self._http) for side in self._sides
        ]
        self.names.append(key)

    def outcome(self, name: str, *, classic: bool) -> tuple[Any, Any]:
        theirs, ours = self._outcomes[f"{'classic' if classic else 'built'}-{name}"]
        return theirs.result(patience(240)), ours.result(patience(240))


@pytest.fixture(scope="module")
def builds(
    sides: tuple[Side, Side], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Builds]:
    directory = tmp_path_factory.mktemp("parity")
    with serve(directory / "git") as http, ThreadPoolExecutor(_AT_ONCE) as pool:
        made = Builds(sides, directory, http, pool)
        for item in request.session.items:
            if isinstance(item, pytest.Function) and item.module is request.module:
                made.start(
                    item.callspec.params["name"], classic=item.function is test_classic_builds_have_the_results_of_dockerd
                )
        try:
            yield made
        finally:
            pool.shutdown(cancel_futures=True)
            for side in sides:
                docker(side.path, "rmi", "-f", *made.names)
            remove_cgroups("orlop-parity")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_buildkit_builds_have_the_results_of_dockerd(builds: Builds, name: str) -> None:
    theirs, ours = builds.outcome(name, classic=False)
    assert not list(differences(theirs, ours))
    assert isinstance(theirs, tuple) == CASES[name].fails, theirs


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CLASSIC)
def test_classic_builds_have_the_results_of_dockerd(builds: Builds, name: str) -> None:
    theirs, ours = builds.outcome(name, classic=True)
    assert not list(differences(theirs, ours))
    assert isinstance(theirs, tuple) == CASES[name].fails, theirs
