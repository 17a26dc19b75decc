"""The plugins of docs/plugins.md, installed as the page says, in a real daemon."""

from __future__ import annotations

import json
import re
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", PAGE.read_text(), re.DOTALL))


def install(site: Path) -> None:
    """Install like pip: the package, and a dist-info with the entry points of pyproject.toml."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    (site / "orlop_visits").mkdir()
    (site / "orlop_visits" / "__init__.py").touch()
    for name, text in FILES.items():
        if name.startswith("orlop_visits/"):
            (site / name).write_text(text)
    info = site / "orlop_visits-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in _points(project))
    (info / "entry_points.txt").write_text("\n".join(groups))


def _points(project: dict[str, dict[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    return list(project["entry-points"].items())


def test_plugins_that_are_printed_in_the_plugin_guide_work(fresh: Callable[..., Engine], tmp_path: Path) -> None:
    install(tmp_path)
    engine = fresh()
    engine.stop()
    config = {**json.loads(FILES["daemon.json"]), "visits-file": str(engine.home / "visits")}
    engine.configure(config)
    engine.start(pythonpath=str(tmp_path))
    before = engine.api("GET", "/visits")[1]["Visits"]
    assert engine.api("GET", "/visits")[1]["Visits"] == before + 1

    engine.configure({**config, "visits-closed": True})
    assert engine.process is not None
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: "applied: visits-closed" in engine.log(), "the reload")
    assert engine.api("DELETE", "/visits") == (
        403,
        {"message": "this daemon is closed: see visits-closed in daemon.json"},
    )
    engine.configure(config)
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: engine.api("DELETE", "/visits")[0] == 204, "the other reload")

    shown = {each["Key"]: each for each in engine.api("GET", "/orlop/config")[1]["Values"]}
    assert shown["visits-file"]["Plugin"] == "visits"
    assert shown["visits-file"]["Help"] == "File that keeps the number of requests"

    engine.stop()
    path = engine.home / "visits"
    assert path.read_text().isdecimal()
    path.chmod(0o644)
    engine.start(pythonpath=str(tmp_path))
    (finding,) = engine.api("GET", "/orlop/check")[1]["findings"]
    assert (finding["area"], finding["text"]) == ("visits", "is readable by others")
    assert engine.api("POST", "/orlop/check")[1]["repaired"] == [f"file {path}: set its mode: done"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert engine.api("GET", "/orlop/check") == (200, {"findings": [], "ok": True})

    engine.stop()
    engine.configure({**config, "visits-file": "relative"})
    refused = engine.run(["env", f"PYTHONPATH={tmp_path}", *engine.command, "--validate"])
    assert 'invalid visits-file "relative": an absolute path is needed' in refused.err
    engine.configure({})
    engine.start()
