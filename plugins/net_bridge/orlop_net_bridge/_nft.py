"""Runs nft commands. If libnftables is installed, it is used in this process (0.1-1 ms per change); otherwise the program
`nft` is run (3 ms).

An object belongs to one thread, and acts on the network namespace in which that thread created it. Errors are raised as
`NftError`, whose attributes say whether an object existed already or was missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import shutil
import subprocess
import threading
from typing import Any, Protocol

from orlop_sdk import DeadlineExceeded, DriverError

__all__ = ["Nft", "NftError", "open_nft"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENV = {"PATH": _PATH, "LC_ALL": "C"}
_OUTPUT_JSON = 1 << 4
_SECONDS = 20.0


class NftError(DriverError):
    """A transaction was refused, and no part of it was applied."""

    def __init__(self, what: str, complaint: str) -> None:
        self.exists = "File exists" in complaint
        self.missing = "No such file or directory" in complaint
        first = next((line.strip() for line in complaint.splitlines() if line.strip()), "no reason given")
        super().__init__(f"cannot {what}: nft: {first.removeprefix('Error: ')}")


class Nft(Protocol):
    def run(self, commands: str, what: str) -> None:
        """Apply commands as one transaction. `what` completes the error message "cannot ..."."""

    def read(self, command: str, what: str) -> dict[str, Any]:
        """Run a list command and return its JSON output."""

    def close(self) -> None: ...


class _Library:
    def __init__(self) -> None:
        lib = ctypes.CDLL("libnftables.so.1")
        lib.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
            getattr(lib, name).restype = ctypes.c_char_p
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        context = lib.nft_ctx_new(0)
        if not context:
            raise OSError("nft_ctx_new failed")
        lib.nft_ctx_buffer_output(context)
        lib.nft_ctx_buffer_error(context)
        self._lib, self._context = lib, context

    def _call(self, commands: str, what: str, flags: int) -> str:
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        status = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Always read both buffers. Reading empties them, and the next call must not find output of this call.
        output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        complaint = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        if status:
            raise NftError(what, complaint.decode("utf-8", "replace"))
        return str(output, "utf-8", "replace")

    def run(self, commands: str, what: str) -> None:
        self._call(commands, what, 0)

    def read(self, command: str, what: str) -> dict[str, Any]:
        return _decoded(self._call(command, what, _OUTPUT_JSON), what)

    def close(self) -> None:
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = None


class _Program:
    def __init__(self, path: str) -> None:
        self._path = path

    def _call(self, argv: list[str], stdin: str, what: str) -> str:
        process = subprocess.Popen(
            [self._path, *argv],
            env=_ENV,
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        # A timer is used instead of `timeout`, because with `timeout`, `subprocess` polls, which doubles the time of a
        # short-lived child.
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(_SECONDS, expire)
        timer.daemon = True
        timer.start()
        try:
            output, complaint = process.communicate(stdin.encode())
        finally:
            timer.cancel()
            timer.join()
        if expired.is_set():
            raise DeadlineExceeded(f"cannot {what}: nft: no answer within {_SECONDS:g} s")
        if process.returncode:
            raise NftError(what, complaint.decode("utf-8", "replace"))
        return output.decode("utf-8", "replace")

    def run(self, commands: str, what: str) -> None:
        self._call(["-f", "-"], commands + "\n", what)

    def read(self, command: str, what: str) -> dict[str, Any]:
        return _decoded(self._call(["-j", *command.split()], "", what), what)

    def close(self) -> None:
        pass


def _decoded(text: str, what: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise DriverError(f"cannot {what}: cannot understand nft's answer: {error}") from error
    return answer if isinstance(answer, dict) else {}


def open_nft() -> Nft:
    """Open libnftables or find `nft`. If neither is available, raises `DriverError` with the package to install."""
    with contextlib.suppress(OSError, AttributeError):  # libnftables is not installed, or has an incompatible version
        return _Library()
    path = shutil.which("nft", path=_PATH)
    if path is None:
        raise DriverError(
            "cannot program the firewall: neither libnftables.so.1 nor nft is installed; install nftables, "
            'or set "iptables": false in daemon.json'
        )
    return _Program(path)
