"""Prunes while a build runs: with any filters, the base, the finished steps and the context of the build are kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine, patience, until
from tests.integration.test_build_clients import processes

pytestmark = pytest.mark.root

DOCKERFILE = """FROM busybox AS other
RUN echo other | tee /other > /later
FROM busybox
RUN echo first > /first
COPY file /file
COPY --from=other /other /
RUN echo begun; sleep 31340; echo last > /last
COPY --from=other /later /
"""
PRUNES = (
    ("image", "prune", "-f"),
    ("image", "prune", "-f", "--filter", "until=0s"),
    ("image", "prune", "-af", "--filter", "label!=none"),
    ("image", "prune", "-af"),
    ("builder", "prune", "-f"),
    ("builder", "prune", "-af", "--filter", "until=0s"),
    ("buildx", "prune", "-af"),
    ("system", "prune", "-af", "--volumes"),
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    made.start()
    made.load()
    yield made
    assert made.close() == []


def test_prune_commands_during_a_build_remove_nothing_that_the_build_needs(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "file").write_text("file\n")
    child = engine.background("build", "--progress=plain", "-t", "made", str(tmp_path))
    pid = until(lambda: _sleeping(engine), "the step")
    for argv in PRUNES:
        engine.ok(*argv)
    assert engine.ok("images", "-aq") == ""
    os.kill(pid, signal.SIGKILL)
    _, shown = child.communicate(timeout=patience(60))
    assert child.returncode == 0, shown.decode()

    engine.ok("builder", "prune", "-af")
    for name in ("run", "saved and loaded"):
        found = engine.ok("run", "--rm", "--network=none", "made", "cat", "/first", "/file", "/other", "/last", "/later")
        assert found.split() == ["first", "file", "other", "last", "other"], name
        archive = engine.docker("save", "made", check=0).stdout
        engine.ok("rmi", "made")
        engine.ok("load", stdin=archive)
    engine.ok("system", "prune", "-af")
    engine.until_sound()


def _sleeping(engine: Engine) -> int:
    """The program that the step waits for; 0 if it does not run."""
    found = [int(pid) for pid in processes(engine, "31340") if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]
    return found[0] if found else 0
