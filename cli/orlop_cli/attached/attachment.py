"""Copies between the stream of a container or exec and the client's stdin, stdout and stderr.

The main thread copies output, and a daemon thread copies input, until run() returns. At EOF of stdin, the write side of the
stream is closed, and output continues. At EOF of the output, the attachment ends.
"""

from __future__ import annotations

import _socket
import os
import sys

from orlop_cli._errors import CliError
from orlop_cli.attached import terminal
from orlop_cli.attached.streams import STDERR, STDOUT, copy_framed, copy_raw
from orlop_cli.daemon.http import RECEIVE, Response

DEFAULT_DETACH = "ctrl-p,ctrl-q"


class Wiring:
    """The connected streams: the client's stdin, stdout, stderr, and whether the other side is a TTY."""

    __slots__ = ("detach_keys", "stderr", "stdin", "stdout", "tty")

    def __init__(
        self, tty: bool, stdin: bool, stdout: bool = True, stderr: bool = True, detach_keys: str | None = None
    ) -> None:
        self.tty, self.stdin, self.stdout, self.stderr, self.detach_keys = tty, stdin, stdout, stderr, detach_keys


def detach_bytes(keys: str | None) -> bytes:
    """The bytes of a detach sequence (moby/term ascii.go). Raises CliError for an unknown key."""
    out = bytearray()
    for key in (keys or DEFAULT_DETACH).split(","):
        if len(key) == 1 and key.isascii():
            out += key.encode()
        elif key == "DEL":
            out.append(127)
        elif key.startswith("ctrl-") and len(key) == 6 and (key[5].islower() or key[5] in "@[\\]^_"):
            out.append(ord(key[5].upper()) & 0x1F)
        else:
            raise CliError(f"invalid detach keys ({keys}) provided: {key!r} is neither one character nor ctrl-<letter>", 125)
    return bytes(out)


class Sequence:
    """Detects a typed key sequence, without I/O. The daemon also detects the sequence, and detaches. The client only detects
    it to distinguish a detach from an exit."""

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self._seen = 0

    def feed(self, data: bytes) -> bool:
        """Process typed bytes. Returns True once the last byte of the sequence was fed."""
        for byte in data:
            if byte == self._wanted[self._seen]:
                self._seen += 1
            else:
                self._seen = int(byte == self._wanted[0])
            if self._seen == len(self._wanted):
                return True
        return False


def check_terminal(tty: bool, stdin: bool) -> None:
    """Like Docker, refuse a TTY whose input is a pipe, because the container never sees EOF."""
    if tty and stdin and not os.isatty(0):
        raise CliError("the input device is not a TTY")


class Attachment:
    """Copies until the output ends. `detached` then says whether the user typed the detach keys."""

    def __init__(self, answer: Response, wiring: Wiring) -> None:
        self._stream, self._rest = answer.hijack()
        self._wiring = wiring
        self._keys = Sequence(detach_bytes(wiring.detach_keys)) if wiring.tty else None
        self.detached = False

    def run(self) -> None:
        """Attach. With a TTY on both sides, the terminal is in raw mode until the end. Returns at EOF of the output."""
        sys.stdout.flush()
        if self._wiring.stdin:
            self._run_with_input()
        else:
            self._copy_output()
        self._stream.close()

    def _run_with_input(self) -> None:
        import threading

        thread = threading.Thread(target=self._copy_input, daemon=True)
        if not (self._wiring.tty and os.isatty(0)):
            thread.start()
            self._copy_output()
            return
        with terminal.Raw(0):
            thread.start()
            self._copy_output()

    def _copy_output(self) -> None:
        if self._wiring.tty:
            copy_raw(self._stream, self._rest, 1)
            return
        fds = {STDOUT: 1} if self._wiring.stdout else {}
        copy_framed(self._stream, self._rest, {**fds, STDERR: 2} if self._wiring.stderr else fds)

    def _copy_input(self) -> None:
        try:
            while data := os.read(0, RECEIVE):
                # Set this before sending, because the daemon may close the stream before sendall() returns.
                self.detached = self._keys is not None and self._keys.feed(data)
                self._stream.sendall(data)
                if self.detached:
                    # The daemon detaches after these keys. Later output is not shown.
                    self._stream.shutdown(_socket.SHUT_RDWR)
                    return
            self._stream.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # the daemon has closed the stream, or stdin is closed; run() ends at EOF of the output
