"""Mutants of `FakeRuntime`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from orlop_sdk import Command, Mount, RuntimeContext
from orlop_sdk.testing.runtime import FakeRuntime

from ._change import Mutant, change, replaced

__all__ = ["MUTANTS"]


def _wrapped(command: Command, script: str) -> Command:
    """A command that runs a shell script with the words of `command` as arguments."""
    return replace(command, argv=("/bin/sh", "-c", script, "sh", *command.argv))


def _shell(method: str, script: str) -> Any:
    return change(FakeRuntime, method, lambda original, self, *args, **more: _wrapped(original(*args, **more), script))


def _in(base: Any) -> Callable[[str], Any]:
    """Returns a factory that the suite calls with the directory of the runtime's state."""

    def make(state: str) -> Any:
        return base(RuntimeContext("fake", "fake", state))

    return make


def _impure(original: Any, self: Any, task: Any) -> Command:
    with open(os.path.join(self._context.root, f"touched-{task.id}"), "w"):
        return original(task)  # type: ignore[no-any-return]


def _delayed(seconds: float) -> Any:
    return change(FakeRuntime, "delete", lambda original, self, task: replace(original(task), timeout=seconds))


def _numbers(original: Any, self: Any, task: Any, signum: int) -> Command:
    command: Command = original(task, signum)
    return replace(command, argv=(*command.argv[:-1], signum))


_KEEP_STATE = """
for id; do :; done
cp "$6/$id.json" "$6/$id.copy"
"$@"
mv "$6/$id.copy" "$6/$id.json"
exit 0
"""
_PURE = "test_commands_are_pure"
_EXEC = "test_exec_runs_a_second_process"
_PAUSE = "test_paused_task_resumes"
_STREAMS = "test_task_inherits_standard_streams"
_MISSING = "test_missing_program_is_explained"
_CHECKPOINT = "test_checkpointed_task_is_restored"

_MUTANTS = (
    ("lacks `pause`", "test_is_a_runtime", replaced(FakeRuntime, pause=None)),
    (
        "wants unneeded mounts",
        "test_is_a_runtime",
        replaced(FakeRuntime, monitor_mounts=lambda self: (Mount("tmpfs", "tmpfs", "/x", ()),)),
    ),
    (
        "has no version",
        "test_version_command_prints_a_version",
        replaced(FakeRuntime, version=lambda self: Command((sys.executable, "-c", ""))),
    ),
    (
        "fails to print its version",
        "test_version_command_prints_a_version",
        replaced(FakeRuntime, version=lambda self: Command(("/bin/false",))),
    ),
    ("writes files in `run`", _PURE, change(FakeRuntime, "run", _impure)),
    ("writes files in `delete`", _PURE, change(FakeRuntime, "delete", _impure)),
    ("never times out", _PURE, _delayed(86400.0)),
    ("times out at once", _PURE, _delayed(0.0)),
    ("passes numbers to the program", _PURE, change(FakeRuntime, "signal", _numbers)),
    ("has no command", _PURE, change(FakeRuntime, "pause", lambda original, self, task: Command(()))),
    ("closes the task's output", _STREAMS, _shell("run", 'exec "$@" >/dev/null 2>&1')),
    ("mixes other output into the task's", _STREAMS, _shell("run", 'echo started; exec "$@"')),
    ("fails to delete", "test_delete_kills_the_task", _shell("delete", '"$@"; exit 1')),
    ("reports a missing task", "test_delete_of_a_missing_task_is_silent", _shell("delete", 'echo deleted; exec "$@"')),
    (
        "fails without a task",
        "test_delete_of_a_missing_task_is_silent",
        change(
            FakeRuntime, "delete", lambda o, s, task: replace(o(task), argv=tuple(w for w in o(task).argv if w != "--force"))
        ),
    ),
    (
        "keeps the state of a deleted task",
        "test_id_can_be_used_again",
        _shell("delete", _KEEP_STATE),
    ),
    ("fails to send signals", "test_signal_reaches_the_task", _shell("signal", "exit 1")),
    (
        "always sends SIGKILL",
        "test_requested_signal_is_sent",
        change(FakeRuntime, "signal", lambda original, self, task, signum: original(task, 9)),
    ),
    ("sends no signal", "test_requested_signal_is_sent", _shell("signal", "exit 0")),
    ("runs no second process", _EXEC, _shell("exec", "exit 0")),
    ("lists no processes", _EXEC, _shell("processes", "echo '[]'")),
    ("lists init only", _EXEC, _shell("processes", '"$@" | sed "s/,.*]/]/"')),
    ("fails to pause", _PAUSE, _shell("pause", "exit 1")),
    ("does not resume", _PAUSE, _shell("resume", "exit 1")),
    ("writes no checkpoint", _CHECKPOINT, _shell("checkpoint", "exit 0")),
    (
        "ends the task at each checkpoint",
        _CHECKPOINT,
        change(
            FakeRuntime,
            "checkpoint",
            lambda o, s, *a, leave_running: _wrapped(o(*a, leave_running=False), '"$@"; sleep 0.5'),
        ),
    ),
    ("restores from nothing", _CHECKPOINT, change(FakeRuntime, "restore", lambda o, s, task, image, work: s.run(task))),
    ("refuses new limits", "test_update_changes_limits", _shell("update", "exit 1")),
    (
        "fails with a terminal",
        "test_console_is_sent_over_the_socket",
        change(FakeRuntime, "run", lambda o, s, task: _wrapped(o(task), "exit 1")),
    ),
    ("explains nothing", _MISSING, replaced(FakeRuntime, explain=lambda self, outcome, log, verb="create": "it failed")),
    ("cuts the cause", _MISSING, change(FakeRuntime, "explain", lambda o, s, *a: o(*a).partition("executable")[0])),
    ("ignores a missing program", _MISSING, _shell("run", '"$@"; exit 0')),
    (
        "explains an exec as a create",
        "test_missing_program_of_an_exec_is_explained",
        change(FakeRuntime, "explain", lambda o, s, outcome, log, verb="create": o(outcome, log)),
    ),
)
MUTANTS = tuple(Mutant(fault, check, _in(base)) for fault, check, base in _MUTANTS)
