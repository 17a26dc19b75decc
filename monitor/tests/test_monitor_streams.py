"""Standard streams of a container: slow clients, blocked input, pipes that cannot be made."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from subprocesses import in_a_process

from orlop_monitor.streams import Input, Output
from orlop_monitor.task import Stdio


class _Slow:
    """A client that does not read. `slow` has the same meaning as in `Attachment`."""

    slow = False
    taken = 0

    def output(self, stream: str, data: bytes) -> None:
        self.taken += len(data)
        self.slow = self.taken > 1 << 20


class _Reads:
    """A fake loop. `read` is the current callback. The test calls it to simulate that a process's output is readable."""

    def __init__(self) -> None:
        self.read: Callable[[], None] | None = None

    def on_readable(self, fd: int, callback: Callable[[], None] | None) -> None:
        self.read = callback

    on_writable = on_readable

    def call_later(self, seconds: float, callback: Callable[[], None]) -> SimpleNamespace:
        return SimpleNamespace(cancel=lambda: None)

    def forget(self, fd: int) -> None:
        self.read = None

    def run(self) -> None:
        while self.read:
            self.read()


def test_amount_of_output_kept_after_the_exit_for_a_slow_client_is_bounded() -> None:
    loop, client, ended = _Reads(), _Slow(), []
    output = Output(loop)  # type: ignore[arg-type]  # `_Reads` has all methods of a loop that `Output` calls
    output.attach(client)  # type: ignore[arg-type]
    output.start({"stdout": os.open("/dev/zero", os.O_RDONLY)})
    loop.run()
    assert 1 << 20 < client.taken < 2 << 20
    output.end(2, lambda: ended.append(True))
    for _ in range(1000):
        if loop.read:
            loop.read()
    assert 16 << 20 <= client.taken < 19 << 20 and not loop.read
    output.end_now()
    assert ended == [True]


def test_output_that_remains_at_the_exit_is_queued_for_a_slow_client() -> None:
    ours, theirs = os.pipe()
    loop, client, ended = _Reads(), _Slow(), []
    output = Output(loop)  # type: ignore[arg-type]
    output.attach(client)  # type: ignore[arg-type]
    output.start({"stdout": ours})
    client.slow, client.taken = True, 2 << 20
    os.write(theirs, b"last words")
    os.close(theirs)
    output.end(2, lambda: ended.append(True))
    loop.run()
    assert ended == [True] and client.taken == (2 << 20) + len("last words")


def test_unread_input_blocks_the_client_and_is_not_lost() -> None:
    """The queue of standard input is bounded. A blocked client can send again when the process reads, and no input is
    lost."""
    assert (
        in_a_process(
            """
import hashlib, socket
from orlop_monitor.channel import Channel
from orlop_monitor.protocol import Attach
from orlop_monitor.streams import Attachment, Input, Output
LENGTH = 8 << 20
content = os.urandom(LENGTH)
ours, client = socket.socketpair()
client.setblocking(False)
reading, writing = os.pipe()
os.set_blocking(reading, False)
input_ = Input(loop, terminal=False)
input_.open(writing)
Attachment(Channel(loop, ours), Attach(stdin=True, stdin_once=True), input_, Output(loop), True).join(b"")
sent, most, got = 0, 0, hashlib.sha256()
def send():
    global sent
    try:
        while sent < LENGTH:
            sent += client.send(content[sent : sent + 65536])
    except BlockingIOError:
        return
    loop.on_writable(client.fileno(), None)
    client.shutdown(socket.SHUT_WR)
def watch(before):
    # No more data is sent: the client is blocked
    global most
    if sent != before:
        loop.call_later(0.05, lambda: watch(sent))
        return
    most = sent
    loop.on_readable(reading, read)
def read():
    data = os.read(reading, 65536)
    got.update(data)
    if not data:
        loop.stop()
loop.on_writable(client.fileno(), send)
watch(-1)
loop.run()
print(most < 2 << 20, sent == LENGTH, got.hexdigest() == hashlib.sha256(content).hexdigest(), input_.closed)
"""
        )
        == ["True"] * 4
    )


@pytest.mark.parametrize("made", [0, 1, 2])
def test_failed_creation_of_streams_leaves_no_descriptors(monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    pipe, opened, closed = os.pipe, [], []
    dup, close = os.open, os.close

    def scarce() -> tuple[int, int]:
        if len(opened) > 2 * made:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.extend(ends := pipe())
        return ends

    monkeypatch.setattr(os, "open", lambda *args: opened.append(fd := dup(*args)) or fd)
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd))[1])
    monkeypatch.setattr(os, "pipe", scarce)
    loop: Any = _Reads()
    with pytest.raises(OSError, match="Too many"):
        Stdio(loop, Input(loop, terminal=False), Output(loop), False, (True, True, True))
    assert len(opened) == 1 + 2 * made and sorted(closed) == sorted(opened)


def test_output_is_not_read_while_the_log_is_full() -> None:
    loop, timers = _Reads(), list[Callable[[], None]]()

    def call_later(_: float, callback: Callable[[], None]) -> SimpleNamespace:
        timers.append(callback)
        return SimpleNamespace(cancel=lambda: None)

    loop.call_later = call_later  # type: ignore[method-assign]
    logged: list[bytes] = []
    full = [False]
    output = Output(loop, lambda _, data, __: logged.append(data), lambda: full[0])  # type: ignore[arg-type]
    ours, theirs = os.pipe()
    output.start({"stdout": ours})
    full[0] = True
    os.write(theirs, b"one")
    assert loop.read
    loop.read()
    assert (logged, loop.read) == ([b"one"], None)
    timers.pop()()  # the log is still full
    assert (len(timers), loop.read) == (1, None)
    full[0] = False
    timers.pop()()
    assert loop.read
    os.close(theirs)
    output.end(2, lambda: None)
    loop.run()
