"""The queue in front of a service: its limits, its order, and the conditions under which the container must wait."""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from orlop_sdk import InvalidParameter, LogBlock
from orlop_sdk.logsending import (
    Item,
    LogLine,
    Numbering,
    SendingWriter,
    StreamSender,
    Tls,
    boolean,
    duration,
    lines_of,
    split_address,
    unsigned,
)
from orlop_sdk.logsending import _writer as writers
from orlop_sdk.testing import RecordingService


class Gate:
    """A sender that sends only while `may` is set, and fails while `fails` is true."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.busy = threading.Event()
        self.fails = False
        self.opened = 0
        self.sent: list[bytes] = []

    def open(self) -> None:
        self.opened += 1
        if self.fails:
            raise OSError("nobody listens")

    def send(self, items: Sequence[Item]) -> int:
        self.busy.set()
        self.may.wait(20)
        self.sent.append(items[0].data)
        return 1

    def close(self) -> None:
        pass


def block(data: bytes) -> LogBlock:
    return LogBlock("stdout", data, 1)


def test_full_queue_drops_new_blocks_of_lines_and_counts_them() -> None:
    gate = Gate()
    writer = SendingWriter("t", gate, {"mode": "non-blocking", "max-buffer-size": "10"})
    writer.write([block(b"first\n")])
    assert gate.busy.wait(20)
    writer.write([block(b"second\n"), block(b"third\n"), block(b"fourth\n")])
    assert (writer.dropped, writer.full) == (2, False)
    gate.may.set()
    writer.close()
    assert gate.sent == [b"first\n", b"second\n"]


def test_container_waits_for_a_slow_service_in_mode_blocking() -> None:
    gate = Gate()
    writer = SendingWriter("t", gate, {"mode": "blocking"}, limit=10)
    writer.write([block(b"first line\n")])
    assert gate.busy.wait(20)
    assert writer.full
    gate.may.set()
    writer.close()
    assert (writer.full, writer.dropped, gate.sent) == (False, 0, [b"first line\n"])


def test_container_does_not_wait_for_a_log_service_that_accepts_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, now = Gate(), [100.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    writer = SendingWriter("t", gate, {}, limit=10)
    writer.write([block(b"more than ten bytes\n")])
    assert gate.busy.wait(20)
    assert writer.full
    now[0] += 0.9
    assert writer.full
    writer._sent_bytes += 2 << 20  # simulates a service that takes the lines
    now[0] += 0.2
    assert writer.full
    now[0] += 1.1
    assert not writer.full
    monkeypatch.undo()
    gate.may.set()
    writer.close()


def test_queue_is_bounded_while_the_container_does_not_wait() -> None:
    """After the queue is full, the monitor continues to read for up to 20 ms."""
    gate = Gate()
    writer = SendingWriter("t", gate, {"mode": "blocking"}, limit=100)
    for _ in range(100):
        writer.write([block(b"x" * 9 + b"\n")])
    assert writer.dropped == 80
    gate.may.set()
    writer.close()
    assert writer.dropped == 80


def test_sender_reconnects_after_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_FIRST_PAUSE", 0.001)
    gate = Gate()
    gate.fails = True
    gate.may.set()
    writer = SendingWriter("t", gate, {})
    writer.write([block(b"one\ntwo\n")])
    while gate.opened < 3:
        pass
    gate.fails = False
    writer.close()
    assert gate.sent == [b"one\ntwo\n"]


def test_line_that_cannot_be_encoded_is_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Gate):
        def send(self, items: Sequence[Item]) -> int:
            raise ValueError("bad line")

    writer = SendingWriter("t", Broken(), {})
    writer.write([block(b"one\ntwo\n")])
    writer.close()
    assert writer.dropped == 2
    assert "log driver t: ValueError: bad line" in capsys.readouterr().err


def test_parts_of_long_lines_are_numbered_separately_for_each_stream() -> None:
    out = LogBlock("stdout", b"a" * 16384, 1, partial=True)
    err = LogBlock("stderr", b"b" * 16384, 1, partial=True)
    found = Numbering().items([out, err, out, block(b"end\n"), block(b"x\ny\n"), LogBlock("stderr", b"\n", 1)])
    parts = [item.part if isinstance(item, LogLine) else None for item in found]
    numbers = [(part.ordinal, part.last) if part else None for part in parts]
    assert numbers == [(1, False), (1, False), (2, False), (3, True), None, (2, True)]
    assert parts[0] and parts[1] and parts[3]
    assert parts[0].id == parts[3].id != parts[1].id


@pytest.mark.parametrize("data, wanted", [(b"\n", [b""]), (b"a\n\nb\n", [b"a", b"", b"b"])], ids=["empty", "three"])
def test_blocks_are_split_into_lines(data: bytes, wanted: list[bytes]) -> None:
    assert [line.data for line in lines_of([block(data)])] == wanted


def test_sender_over_tls_refuses_an_untrusted_certificate_unless_verification_is_disabled(tmp_path: Path) -> None:
    class Plain(StreamSender):
        def encode(self, line: LogLine) -> bytes:
            return line.data

    cert, key = str(tmp_path / "cert"), str(tmp_path / "key")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([*argv, "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    with closing(RecordingService("tcp", secured=context)) as service:
        address = ("localhost", int(service.address.rpartition(":")[2]))
        refused = Plain(address, Tls())
        with pytest.raises(ssl.SSLCertVerificationError):
            refused.open()
        for tls in (Tls(ca=cert), Tls(verify=False)):
            sender = Plain(address, tls)
            sender.open()
            assert sender.send([LogLine("stdout", b"text", 1)]) == 1
            sender.close()
        service.until(lambda _: service.records.count(b"text") == 2)
        assert service.records.count(b"text") == 2


def test_addresses_are_split_into_host_and_port_as_by_go() -> None:
    assert split_address("udp://[::1]:99/x%20y") == ("udp", "::1", "99", "/x y")
    assert split_address("unix:///a/b") == ("unix", "", "", "/a/b")
    assert split_address("text") == ("", "", "", "text")
    with pytest.raises(ValueError, match=r'^parse "tcp://a:b": invalid port ":b" after host$'):
        split_address("tcp://a:b")


def test_option_values_are_parsed_as_by_go() -> None:
    options = {"b": "T", "n": "3", "d": "1m1.5s", "minus": "-250ms"}
    assert boolean(options, "b") and not boolean(options, "none")
    assert (unsigned(options, "n", 7), unsigned(options, "none", 7)) == (3, 7)
    assert (duration(options, "d", 0), duration(options, "minus", 0), duration(options, "none", 2)) == (61.5, -0.25, 2)
    for read in (
        lambda: boolean({"k": "x"}, "k"),
        lambda: unsigned({"k": "-1"}, "k", 0),
        lambda: duration({"k": "1"}, "k", 0),
    ):
        with pytest.raises(InvalidParameter):
            read()
