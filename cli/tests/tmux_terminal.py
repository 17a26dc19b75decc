"""A terminal for tests: tmux on a socket of its own, whose screen is read as text."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Tmux"]

DEADLINE = 30.0


def _runs(pid: str) -> bool:
    """Whether a process runs. A zombie has ended, and only waits for its parent."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


class Tmux:
    """A shell in a terminal of tmux, until the `with` block ends. All waits have a deadline."""

    def __init__(self, width: int = 80, height: int = 12, **environment: str) -> None:
        self._directory = tempfile.mkdtemp(prefix="orlop-tmux-")
        kept = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": self._directory, "PS1": "$ ", "HISTFILE": ""}
        kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.environment: Mapping[str, str] = {**kept, "DOCKER_CONFIG": self._directory, **environment}
        words = [
            "env",
            "-i",
            *(f"{name}={value}" for name, value in self.environment.items()),
            "bash",
            "--norc",
            "--noediting",
        ]
        size = ("-x", str(width), "-y", str(height))
        if "TERM" not in environment:
            words.insert(2, "TERM=tmux-256color")
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, shlex.join(words))
        self.until(lambda screen: screen.startswith("$"))

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-S", f"{self._directory}/s", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=True)
        return done.stdout

    def type(self, *keys: str) -> None:
        """Press keys, by the names of tmux: a, Enter, C-c."""
        self.tmux("send-keys", *keys)

    def run(self, words: Sequence[str]) -> None:
        """Run a command, and print its exit code as `code=N`."""
        self.tmux("send-keys", "-l", f"clear; {shlex.join(words)}; echo code=$?")
        self.type("Enter")

    def resize(self, width: int, height: int) -> None:
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self, *flags: str) -> str:
        """The screen, without the empty lines at its end. With the flag -e, it contains the sequences for colours."""
        return self.tmux("capture-pane", "-p", *flags).rstrip()

    def until(self, wanted: Callable[[str], object]) -> str:
        """Wait until the screen fulfils a condition, and return the screen."""
        end = time.monotonic() + DEADLINE
        while not wanted(screen := self.screen()):
            assert time.monotonic() < end, f"the screen does not become as expected:\n{screen}"
            time.sleep(0.05)
        return screen

    def see(self, text: str) -> str:
        return self.until(lambda screen: text in screen)

    def is_cooked(self) -> bool:
        """Whether the terminal is as programs expect: it echoes and edits lines, and shows its cursor on the main screen."""
        pane = self.tmux("display-message", "-p", "#{pane_tty} #{cursor_flag} #{alternate_on}").split()
        done = subprocess.run(["stty", "-a", "-F", pane[0]], capture_output=True, text=True, check=True)
        return not {"-echo", "-icanon", "-opost", "-isig"} & set(done.stdout.split()) and pane[1:] == ["1", "0"]

    def close(self) -> None:
        """End the terminal, and wait for its processes."""
        try:
            pids = self.tmux("display-message", "-p", "#{pid} #{pane_pid}").split()
            self.tmux("kill-server")
            end = time.monotonic() + DEADLINE
            while any(map(_runs, pids)):
                assert time.monotonic() < end, "tmux does not end"
                time.sleep(0.01)
        finally:
            shutil.rmtree(self._directory)

    def __enter__(self) -> Tmux:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
