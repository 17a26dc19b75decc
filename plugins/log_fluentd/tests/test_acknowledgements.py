from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from orlop_log_fluentd import Fluentd
from orlop_sdk import LogBlock, LogInfo


class Service:
    """A service that closes its first connection without an answer, and acknowledges the messages of all later
    connections."""

    def __init__(self) -> None:
        self.logs: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            self.connections += 1
            with connection:
                while self.connections > 1 and (data := connection.recv(1 << 16)):
                    for part in data.split(b"\x94\xac")[1:]:
                        _, _, fields, options = msgspec.msgpack.decode(b"\x94\xac" + part)
                        self.logs.append(fields["log"])
                        connection.sendall(msgspec.msgpack.encode({"ack": options["chunk"]}))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def service() -> Iterator[Service]:
    with closing(Service()) as made:
        yield made


def test_unacknowledged_line_is_sent_again(service: Service) -> None:
    info = LogInfo("0123456789ab" * 5, "/web", "", "", "", "", "")
    options = {"fluentd-address": service.address, "fluentd-request-ack": "true"}
    writer = Fluentd().open_writer(info, options)
    writer.write([LogBlock("stdout", b"one\ntwo\n", 1)])
    writer.close()
    assert (service.logs, service.connections) == (["one", "two"], 2)
