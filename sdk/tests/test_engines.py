"""`orlop_sdk.testing.engine` without a daemon. tests/integration/test_engine_fixture.py starts daemons."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orlop_sdk.testing import EngineError, engine


def test_error_says_what_to_install_if_the_daemon_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"cannot find the program orlopd .* pip install orlop$"), engine():
        pass


def test_daemon_next_to_the_interpreter_is_preferred_to_one_on_the_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for directory in ("beside", "path"):
        program = tmp_path / directory / "orlopd"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho this is {directory}\nexit 3\n")
        program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "beside" / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"), prepend=":")
    with pytest.raises(EngineError, match="orlopd ended with exit code 3:\nthis is beside\n"), engine():
        pass
    (tmp_path / "beside" / "orlopd").unlink()
    with pytest.raises(EngineError, match="orlopd ended with exit code 3:\nthis is path\n"), engine():
        pass
