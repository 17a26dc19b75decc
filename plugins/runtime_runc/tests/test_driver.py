"""Command lines and error messages of the runc driver. The tests need no root, and run no runtime."""

from __future__ import annotations

import json

import pytest

from orlop_runtime_runc import Runc
from orlop_runtime_runc.driver import hybrid_mounts
from orlop_runtime_runc.messages import explain
from orlop_sdk import Execution, Outcome, RuntimeContext, Task

TASK = Task("c1", "/b", "/p", "/l")


def _runc(**changes: object) -> Runc:
    values: dict[str, object] = {"name": "runc", "path": "/usr/bin/runc", "root": "/r", **changes}
    return Runc(RuntimeContext(**values))  # type: ignore[arg-type]  # the values are the fields' own


def _log(*messages: str) -> bytes:
    return b"".join(json.dumps({"level": "error", "msg": text}).encode() + b"\n" for text in messages)


def test_run_command_contains_the_paths_of_bundle_pid_file_and_log() -> None:
    command = _runc().run(TASK)
    assert command.argv == (
        *("/usr/bin/runc", "--root", "/r", "--log", "/l", "--log-format", "json"),
        *("run", "--detach", "--bundle", "/b", "--pid-file", "/p", "c1"),
    )
    assert dict(command.env).keys() == {"PATH"}


def test_run_with_a_terminal_passes_the_console_socket() -> None:
    argv = _runc().run(Task("c1", "/b", "/p", "/l", "/console")).argv
    assert argv[-3:] == ("--console-socket", "/console", "c1")


def test_exec_command_contains_the_paths_of_process_file_pid_file_and_log() -> None:
    argv = _runc().exec(TASK, Execution("e", "/process", "/ep", "/el")).argv
    assert argv[argv.index("exec") :] == ("exec", "--detach", "--process", "/process", "--pid-file", "/ep", "c1")
    assert argv[argv.index("--log") + 1] == "/el"


def test_runtime_arguments_and_systemd_cgroup_come_before_the_subcommand() -> None:
    argv = _runc(arguments=("--debug",), systemd_cgroup=True).delete(TASK).argv
    assert argv == ("/usr/bin/runc", "--debug", "--root", "/r", "--systemd-cgroup", "delete", "--force", "c1")


def test_update_sends_json() -> None:
    assert json.loads(_runc().update(TASK, {"pids": {"limit": 5}}).stdin) == {"pids": {"limit": 5}}


def test_hybrid_cgroups_are_detected() -> None:
    v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    unified = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    assert hybrid_mounts(v1 + unified) == ("/sys/fs/cgroup/unified",)
    assert hybrid_mounts(v1) == ()
    assert hybrid_mounts("41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw\n") == ()


def test_no_mounts_are_detached_for_runc() -> None:
    assert _runc().capabilities.detach_mounts == ()


@pytest.mark.parametrize(
    ("runtime", "said", "expected"),
    [
        (
            "runc",
            'runc run failed: unable to start container process: exec: "x": executable file not found in $PATH',
            "OCI runtime create failed: runc create failed: unable to start container process: "
            'exec: "x": executable file not found in $PATH',
        ),
        (
            "runc",
            "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
            "OCI runtime exec failed: exec failed: cannot exec in a paused container (use --ignore-paused to override)",
        ),
        (
            "crun",
            "executable file `x` not found in $PATH: No such file or directory",
            "OCI runtime create failed: crun create failed: unable to start container process: "
            'exec: "x": executable file not found in $PATH',
        ),
        (
            "crun",
            "the path `/etc` is not a regular file: Operation not permitted",
            'OCI runtime create failed: crun create failed: unable to start container process: exec: "/etc": is a directory',
        ),
        (
            "crun",
            "the path `/etc/passwd` exists but it is not executable: Operation not permitted",
            "OCI runtime create failed: crun create failed: unable to start container process: "
            'exec: "/etc/passwd": permission denied',
        ),
        (
            "crun",
            "chdir to `/no/where`: No such file or directory",
            "OCI runtime create failed: crun create failed: unable to start container process: "
            'chdir to cwd ("/no/where") set in config.json failed: no such file or directory',
        ),
        (
            "crun",
            "open executable: Permission denied",
            "OCI runtime create failed: crun create failed: open executable: permission denied",
        ),
    ],
)
def test_runtime_errors_are_reported_as_by_dockerd(runtime: str, said: str, expected: str) -> None:
    assert explain(runtime, Outcome(1), _log("earlier", said)) == expected


def test_missing_executable_in_an_exec_by_crun_is_reported_as_by_dockerd() -> None:
    said = _log("executable file `x` not found in $PATH: No such file or directory")
    assert explain("crun", Outcome(1), said, "exec") == (
        "OCI runtime exec failed: exec failed: unable to start container process: "
        'exec: "x": executable file not found in $PATH'
    )


def test_stderr_is_reported_if_the_log_is_unreadable() -> None:
    assert explain("runc", Outcome(1, b"", b"noise\nrunc run failed: no\n"), b"not json\n").endswith("failed: no")


def test_runtime_killed_by_a_signal_is_reported() -> None:
    assert "signal 9" in explain("runc", Outcome(-9), b"")


def test_runtime_that_timed_out_is_reported() -> None:
    assert "did not answer in time" in explain("runc", Outcome(-9, b"", b"", True), b"")
