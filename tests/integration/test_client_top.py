"""`orlop top` in tmux, with a real daemon."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator

import pytest
from tests.integration.engine import Engine
from tmux_terminal import Tmux

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")]


@pytest.fixture
def terminal() -> Iterator[Tmux]:
    with Tmux(width=100, height=14) as made:
        yield made


def row(screen: str, name: str) -> list[str]:
    """The cells of a row."""
    return next((line.split() for line in screen.splitlines() if line.startswith(f"{name} ")), [])


def show(terminal: Tmux, engine: Engine) -> None:
    terminal.run([sys.executable, "-m", "orlop_cli", "-H", f"unix://{engine.socket}", "top"])


def is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def test_keys_of_orlop_top_show_change_and_remove_real_objects(fresh: Callable[..., Engine], terminal: Tmux) -> None:
    engine = fresh({"live-restore": True})
    engine.ok("volume", "create", "kept")
    engine.ok("run", "-d", "--name", "box", "-m", "32m", "busybox", "sh", "-c", "echo from the log; sleep 1000")
    show(terminal, engine)
    terminal.until(lambda screen: len(cells := row(screen, "box")) > 8 and is_number(cells[3]) and "B/s" in cells[6])
    terminal.type("l")
    terminal.see("from the log")
    terminal.type("q")
    terminal.see("NET IN")

    terminal.type("e")
    terminal.see("/ #")
    terminal.type("echo $((40+2))", "Enter")
    terminal.see("\n42")
    terminal.type("exit", "Enter")
    terminal.see("the shell in box has ended with exit code 0")

    before = engine.inspect("box")["State"]["Pid"]
    engine.stop()
    terminal.see("connection lost, trying again")
    engine.start()
    terminal.until(lambda screen: screen.startswith("orlop top") and is_number(row(screen, "box")[3]))
    assert engine.inspect("box")["State"]["Pid"] == before

    terminal.type("x")
    terminal.see("Container box: running")
    terminal.type("q")
    terminal.see("NET IN")
    engine.ok("update", "--restart", "no", "box")
    engine.ok("kill", "box")
    terminal.until(lambda screen: row(screen, "box")[1:3] == ["exited", "137"])
    terminal.type("S")
    terminal.until(lambda screen: row(screen, "box")[1:2] == ["running"])
    terminal.type("d", "y")
    terminal.see("no containers")
    for page, text in (("2", "busybox"), ("3", "kept"), ("4", "bridge"), ("5", "no build cache")):
        terminal.type(page)
        terminal.see(text)
    terminal.type("3", "d", "y")
    terminal.see("removed kept")
    terminal.type("q")
    terminal.see("code=0\n$")
    assert terminal.is_cooked()


def test_orlop_top_reports_that_an_image_has_no_shell(engine: Engine, terminal: Tmux) -> None:
    engine.ok("run", "-d", "--name", "bare", "busybox", "sleep", "1000")
    engine.ok("exec", "bare", "rm", "/bin/sh")
    show(terminal, engine)
    terminal.until(lambda screen: row(screen, "bare")[1:2] == ["running"])
    terminal.type("e")
    assert '"sh"' in terminal.see("Press Enter to continue.")
    terminal.type("Enter")
    terminal.see("the shell in bare has ended with exit code 127")
    terminal.type("q")
    terminal.see("code=0\n$")
