"""A connection to a daemon on another machine: `ssh HOST docker system dial-stdio`, the same as docker's client makes.

ssh asks the user for passwords at the terminal. The standard error of ssh is kept, and is part of the error message if the
connection ends before the daemon has answered.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile

from orlop_cli._errors import CannotConnect

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import IO

    from orlop_cli.daemon.hosts import Address


__all__ = ["SshStream", "command"]

_ADVICE = "make sure the URL is valid, and docker or orlop is installed on the remote host"


def command(address: Address) -> list[str]:
    """The command line. On a machine with both clients, orlop is used."""
    options = ["-o", "ConnectTimeout=30", "-T"]
    if address.user:
        options += ["-l", address.user]
    if address.port:
        options += ["-p", str(address.port)]
    words = [*(["--host", f"unix://{address.path}"] if address.path else []), "system", "dial-stdio"]
    remote = f"exec $(command -v orlop || echo docker) {shlex.join(words)}"
    return ["ssh", *options, "--", address.host, f"sh -c {shlex.quote(remote)}"]


class SshStream:
    """Implements orlop_cli.daemon.http.Stream through a process of ssh, which ends with the stream."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket, theirs = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the stream
        self._heard = False
        try:
            # ssh runs in a separate session, so that Ctrl-C does not end it: the client forwards the signal to an attached
            # container.
            self._process = subprocess.Popen(
                command(address),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                start_new_session=not os.isatty(0),
            )
        except OSError as error:
            self._socket.close()
            raise CannotConnect(f"cannot run ssh: {(error.strerror or str(error)).lower()}") from None
        finally:
            theirs.close()

    def recv(self, size: int, /) -> bytes:
        try:
            data = self._socket.recv(size)
        except ConnectionResetError:  # ssh has ended without reading the sent data
            data = b""
        self._check(bool(data))
        return data

    def recv_into(self, buffer: memoryview, /) -> int:
        try:
            count = self._socket.recv_into(buffer)
        except ConnectionResetError:
            count = 0
        self._check(bool(count))
        return count

    def _check(self, heard: bool) -> None:
        """Raise CannotConnect if ssh has ended and the daemon has never answered."""
        self._heard = self._heard or heard
        if self._heard:
            return
        code = self._process.wait(30)
        self._errors.seek(0)
        text = self._errors.read(4096).decode("utf-8", "replace").strip()
        raise CannotConnect(
            f"error during connect: ssh to {self._address.text} has exited with exit status {code}, {_ADVICE}: stderr={text}"
        )

    def sendall(self, data: bytes | memoryview, /) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self._check(False)
            raise

    def shutdown(self, how: int, /) -> None:
        self._socket.shutdown(how)

    def settimeout(self, seconds: float | None, /) -> None:
        self._socket.settimeout(seconds)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()
        self._errors.close()
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
