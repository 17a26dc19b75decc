"""Fixtures: recorded answers of a daemon, and functions that call the client as users do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orlop_cli import __main__ as entry
from orlop_cli import _config, _plugins
from orlop_cli.testing import RecordedDaemon


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    with RecordedDaemon(str(tmp_path / "d.sock")) as made:
        yield made


@pytest.fixture(autouse=True)
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's plugins, because a plugin would replace the process of the test."""
    monkeypatch.setattr(_plugins, "_SYSTEM", ())
    for name in ("DOCKER_BUILDKIT", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def fresh_config() -> Iterator[None]:
    """Clear the cached config.json, because each test has a config.json of its own."""
    _config.forget()
    yield
    _config.forget()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("API_VERSION", "DEFAULT_PLATFORM", "HOST", "TLS", "TLS_VERIFY"):
        monkeypatch.delenv(f"DOCKER_{name}", raising=False)
    for name in ("ORLOP_HOST", "DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def orlop(daemon: RecordedDaemon, capfd: pytest.CaptureFixture[str]) -> Any:
    def call(*args: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            entry.main(["-H", daemon.host, *args])
        captured = capfd.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return call
