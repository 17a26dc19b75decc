"""Runs code with a monitor's event loop in a process of its own."""

from __future__ import annotations

import subprocess
import sys

_LOOP = """
import os, sys
from orlop_monitor.loop import Loop
loop, said = Loop(), []
"""


def in_a_process(code: str) -> list[str]:
    """Run `code` in a new process, because the loop owns SIGCHLD and all children of its process."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOP + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.split()
