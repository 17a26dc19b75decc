"""A conformance suite for log drivers that send to a service, and `RecordingService`, a service for tests.

    class TestMine(LogServiceSuite):
        name = "mine"

        @pytest.fixture
        def driver(self):
            return MyLog()

        @pytest.fixture
        def service(self):
            with closing(RecordingService("tcp", self.lines)) as service:
                service.options = {"my-address": service.address}
                yield service

        def lines(self, records):
            "What arrived, as (stream, line without its newline)."

No test needs root.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from orlop_sdk import InvalidParameter, LogBlock, LogDriver, LogInfo

from .log import BASE, SECOND, LogWriterSuite, entry

__all__ = ["LogServiceSuite", "RecordingService"]

_PATIENCE = 20.0  # seconds to wait for data; if the data has not arrived by then, the test fails
_QUICK = 3.0  # the longest time in seconds that a container may wait for a service that is down or hangs
_DATAGRAMS = ("udp", "unixgram")

Line = tuple[str, bytes]


class RecordingService:
    """Listens at a socket, and records each datagram, or the data of each connection. `kind` is `udp`, `tcp`, `unix` or
    `unixgram`; `path` is for `unix` and `unixgram`. `address` is a URL. `decode` turns the records into lines. `answer` is
    called with the received data that was not answered yet. It returns the length of the data that is now answered, and the
    bytes to send. `secured` is the TLS context. If `keeps` is false, the service discards the data, and only counts the
    newlines in `lines`. While `hangs` is true, the service reads nothing."""

    def __init__(
        self,
        kind: str,
        decode: Callable[[Sequence[bytes]], list[Line]] = lambda _: [],
        path: str = "",
        answer: Callable[[bytes], tuple[int, bytes]] = lambda data: (len(data), b""),
        secured: ssl.SSLContext | None = None,
        keeps: bool = True,
    ) -> None:
        self.kind, self._decode, self._path, self._answer = kind, decode, path, answer
        self._secured, self._keeps = secured, keeps
        self.lines = 0
        self.options: dict[str, str] = {}
        self.records: list[bytes] = []
        self.hangs = False
        self._port = 0
        self._connections: list[socket.socket] = []
        self.start()
        self.address = f"{kind}://{path}" if path else f"{kind}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen; after `stop`, at the same address as before."""
        is_unix = self.kind.startswith("unix")
        kind = socket.SOCK_DGRAM if self.kind in _DATAGRAMS else socket.SOCK_STREAM
        self._socket = made = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(self._path if is_unix else ("127.0.0.1", self._port))
        self._port = 0 if is_unix else made.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            made.listen()
        work = self._receive if kind == socket.SOCK_DGRAM else self._accept
        threading.Thread(target=work, args=(made,), daemon=True).start()

    def _receive(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while data := listening.recv(1 << 20):
                self._wait()
                self.records.append(data)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection = listening.accept()[0]
                self._connections.append(connection)
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        if self._secured is not None:
            try:
                connection = self._secured.wrap_socket(connection, server_side=True)
            except OSError:
                return
        number, unanswered = len(self.records), b""
        self.records.append(b"")
        with connection, suppress(OSError):
            while data := connection.recv(1 << 16):
                self._wait()
                self.lines += data.count(b"\n")
                if not self._keeps:
                    continue
                self.records[number] += data
                size, answer = self._answer(unanswered + data)
                unanswered = (unanswered + data)[size:]
                connection.sendall(answer)

    def _wait(self) -> None:
        while self.hangs:
            time.sleep(0.02)

    def received(self) -> list[Line]:
        return self._decode(list(self.records))

    def until(self, wanted: Callable[[list[Line]], bool]) -> list[Line]:
        """Wait until the lines satisfy the condition, or until the timeout. Returns the lines."""
        deadline = time.monotonic() + _PATIENCE
        while not wanted(found := self.received()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def stop(self) -> None:
        """Simulate the end of the service: close connections, and refuse new connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        if self._path:
            os.unlink(self._path)
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        self.hangs = False
        with suppress(OSError):
            self.stop()

    def __enter__(self) -> RecordingService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LogServiceSuite(LogWriterSuite):
    """Tests for log drivers that send to a service. `loses` is true for a protocol without connections, such as UDP: lines
    that are sent while the service is down are lost. `needs_service` is true if no container starts without the service."""

    loses = False
    needs_service = False

    @pytest.fixture
    def service(self) -> RecordingService:
        raise LookupError("a subclass of the suite must override the fixture `service`")

    @pytest.fixture
    def options(self, service: RecordingService) -> dict[str, str]:
        return service.options

    def test_unknown_option_is_refused(self, driver: LogDriver, options: dict[str, str]) -> None:
        with pytest.raises(InvalidParameter, match=f"^unknown log opt 'colour' for {self.name} log driver$"):
            driver.validate({**options, "colour": "red"})

    def test_mode_is_validated(self, driver: LogDriver, options: dict[str, str]) -> None:
        driver.validate({**options, "mode": "non-blocking", "max-buffer-size": "4m"})
        with pytest.raises(InvalidParameter):
            driver.validate({**options, "mode": "sometimes"})

    def test_lines_arrive_in_order(self, driver: LogDriver, info: LogInfo, service: RecordingService) -> None:
        writer = driver.open_writer(info, service.options)
        writer.write([LogBlock("stdout", b"one\ntwo\n", BASE), LogBlock("stderr", b"bad\n", BASE + SECOND)])
        writer.write([LogBlock("stdout", b"three\n", BASE + 2 * SECOND)])
        wanted = [("stdout", b"one"), ("stdout", b"two"), ("stderr", b"bad"), ("stdout", b"three")]
        assert service.until(lambda found: len(found) >= 4) == wanted
        writer.close()

    def test_close_sends_what_is_queued(self, driver: LogDriver, info: LogInfo, service: RecordingService) -> None:
        writer = driver.open_writer(info, service.options)
        writer.write([entry(number) for number in range(200)])
        writer.close()
        found = service.until(lambda found: len(found) >= 200)
        assert [line for _, line in found] == [b"entry %06d" % number for number in range(200)]

    def test_long_line_arrives_whole(self, driver: LogDriver, info: LogInfo, service: RecordingService) -> None:
        parts = [b"a" * 16384, b"b" * 16384]
        blocks = [LogBlock("stdout", part, BASE, partial=True) for part in parts]
        writer = driver.open_writer(info, service.options)
        writer.write([*blocks, LogBlock("stdout", b"end\n", BASE), LogBlock("stdout", b"next\n", BASE)])
        found = service.until(lambda found: len(found) >= 4)
        assert [line for _, line in found] == [*parts, b"end", b"next"]
        writer.close()

    @pytest.mark.parametrize("state", ["down", "hanging"])
    def test_service_blocks_no_container(
        self, driver: LogDriver, info: LogInfo, service: RecordingService, state: str
    ) -> None:
        options = {**service.options, "mode": "non-blocking", "max-buffer-size": "100k"}
        service.hangs = state == "hanging"
        if state == "down" and not self.needs_service:
            service.stop()
        began = time.monotonic()
        writer = driver.open_writer(info, options)
        if state == "down" and self.needs_service:
            service.stop()
        for number in range(200):
            writer.write([LogBlock("stdout", b"x" * 8000 + b"\n", BASE + number)])
        writer.close()
        assert time.monotonic() - began < _QUICK, "the driver waits for its service"

    def test_lines_arrive_after_the_service_was_down(
        self, driver: LogDriver, info: LogInfo, service: RecordingService
    ) -> None:
        writer = driver.open_writer(info, service.options)
        writer.write([entry(0)])
        service.until(lambda found: len(found) == 1)
        service.stop()
        writer.write([entry(1)])
        service.start()
        number = 2
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            writer.write([entry(number)])
            if any(line > b"entry 000001" for _, line in service.received()):
                break
            number += 1
            time.sleep(0.1)
        writer.close()
        found = [line for _, line in service.received()]
        assert len(found) > 1, "the driver does not connect again"
        assert self.loses or b"entry 000001" in found, "a line that came while the service was down is lost"
