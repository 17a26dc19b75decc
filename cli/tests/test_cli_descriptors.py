"""Standard streams of the client and the daemon: closed, full, and with other encodings; arguments that are not text."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from orlop_cli import __main__ as entry
from orlop_cli.testing import RecordedDaemon, answer, chunked, frame

pytestmark = pytest.mark.usefixtures("clean")

ID = "ab" * 32
CLIENT, ORLOPD = "orlop_cli", "orlop_kernel"


def program(module: str, *args: str | bytes, redirected: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m MODULE ARGS` in a shell with these redirections; captures what reaches the open stdout and stderr."""
    argv = [sys.executable, "-m", module, *args]
    shell = ["sh", "-c", f'exec "$@" {redirected}', "sh"]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run([*shell, *argv], capture_output=True, env={**os.environ, "PYTHONPATH": paths, **environment})


def logs(daemon: RecordedDaemon) -> None:
    output = frame(1, b"to stdout\n" * 2000) + frame(2, b"to stderr\n")
    kind = {"Content-Type": "application/vnd.docker.multiplexed-stream"}
    daemon.on("GET", "/containers/web/logs", chunked([output], kind))


@pytest.mark.parametrize(
    ("redirected", "open_ones"),
    [(">&-", "err"), ("2>&-", "out"), ("<&-", "out err"), ("<&- >&-", "err"), ("<&- >&- 2>&-", "")],
)
def test_closed_descriptors_are_not_reused_for_the_connection(
    daemon: RecordedDaemon, redirected: str, open_ones: str
) -> None:
    logs(daemon)
    done = program(CLIENT, "-H", daemon.host, "logs", "web", redirected=redirected)
    assert done.returncode == 0
    assert daemon.seen() == ["GET /containers/web/logs"]
    assert done.stdout == (b"to stdout\n" * 2000 if "out" in open_ones else b"")
    assert done.stderr == (b"to stderr\n" if "err" in open_ones else b"")


@pytest.mark.parametrize("redirected", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("args", "code"), [(["--help"], 0), (["nosuch"], 1), (["run", "--bogus"], 125)])
def test_client_works_with_closed_standard_descriptors(redirected: str, args: list[str], code: int) -> None:
    done = program(CLIENT, *args, redirected=redirected)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("redirected", "code"), [(">&-", 0), ("<&- >&- 2>&-", 0), ("2>&-", 0)])
def test_orlopd_starts_without_standard_descriptors(redirected: str, code: int) -> None:
    assert program(ORLOPD, "--version", redirected=redirected).returncode == code


def test_later_opened_files_do_not_get_the_descriptor_of_stderr() -> None:
    """Child processes inherit descriptors 0 to 2."""
    script = (
        "import os, sys\n"
        "from {0}.__main__ import _open_standard_streams as guard\n"
        "guard()\n"
        "again = os.open('/dev/zero', os.O_RDONLY)\n"
        "print('x', file=sys.stderr, flush=True); print('x', flush=True)\n"
        "assert again > 2 and sys.stdin.read() == '' and all(map(os.get_inheritable, range(3)))\n"
    )
    for module in (CLIENT, ORLOPD):
        shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"]
        assert subprocess.run([*shell, sys.executable, "-c", script.format(module)], check=False).returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("module", "args"),
    [(CLIENT, ["--help"]), (CLIENT, ["-H", "HOST", "ps"]), (CLIENT, ["-H", "HOST", "logs", "web"]), (ORLOPD, ["--help"])],
)
def test_error_is_reported_if_stdout_is_full(daemon: RecordedDaemon, module: str, args: list[str]) -> None:
    daemon.on("GET", "/containers/json", answer([]))
    logs(daemon)
    done = program(module, *(daemon.host if arg == "HOST" else arg for arg in args), redirected=">/dev/full")
    name = "orlop: " if module == CLIENT else ""
    assert (done.returncode, done.stderr.decode().splitlines()[-1:]) == (
        1,
        [f"{name}cannot write to standard output: no space left on device"],
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(("args", "code"), [(["nosuch"], 1), (["run", "--bogus"], 125)])
def test_exit_code_is_kept_if_stderr_is_full(args: list[str], code: int) -> None:
    assert program(CLIENT, *args, redirected="2>/dev/full").returncode == code


# --- encodings


def test_output_to_an_ascii_terminal_is_escaped(daemon: RecordedDaemon) -> None:
    item = {"Id": ID, "Names": ["/web"], "Image": "x", "Command": "sleep " + "1" * 40, "Created": 1, "Status": "Up"}
    daemon.on("GET", "/containers/json", answer([item]))
    done = program(CLIENT, "-H", daemon.host, "ps", redirected="", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2026" in done.stdout


def test_undecodable_arguments_are_sent_unchanged(daemon: RecordedDaemon) -> None:
    daemon.on("DELETE", "/containers/%FF", answer(status=204))
    done = program(CLIENT, "-H", daemon.host, "rm", b"\xff", redirected="")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\udcff\n", b"")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to standard output: no space left on device"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "/x: permission denied"),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), "connection timed out"),
        ("\udcff".encode, "'utf-8' codec can't encode character '\\udcff' in position 0: surrogates not allowed"),
    ],
)
def test_unexpected_errors_are_printed_as_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Any, said: str
) -> None:
    def fail(*_: object) -> int:
        if callable(error):
            error()
        raise error

    monkeypatch.setattr(entry, "_run", fail)
    with pytest.raises(SystemExit) as ended:
        entry.main([])
    assert (ended.value.code, capsys.readouterr().err) == (1, f"orlop: {said}\n")
