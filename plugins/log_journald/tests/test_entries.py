from __future__ import annotations

import os
import socket
from pathlib import Path

from orlop_log_journald import Journald
from orlop_log_journald.entries import Entries, field_name
from orlop_sdk import LogBlock, LogInfo
from orlop_sdk.logsending import LogLine, Part

INFO = LogInfo("0123456789ab" * 5, "/web", "sha256:1", "busybox", "sh", "now", "", labels={"_odd.x": "a\nb"})


def test_field_names_contain_only_characters_that_journald_allows() -> None:
    assert [field_name(text) for text in ("mode", "_odd.x-y", "__", "\u00e4")] == ["MODE", "ODD_X_Y", "", ""]


def test_value_that_is_not_utf8_is_sent_with_its_length() -> None:
    entry = Entries({}).encode(LogLine("stdout", b"\xff", 0))
    assert entry.endswith(b"MESSAGE\n\x01\0\0\0\0\0\0\0\xff\n")


def test_parts_of_a_long_line_are_numbered() -> None:
    entries = Entries({})
    first = entries.encode(LogLine("stdout", b"a", 1_500_000_000, Part("id", 1, last=False)))
    last = entries.encode(LogLine("stdout", b"b", 1_500_000_000, Part("id", 2, last=True)))
    assert b"SYSLOG_TIMESTAMP=1970-01-01T00:00:01.5Z\n" in first
    assert b"CONTAINER_PARTIAL_MESSAGE=true\n" in first
    assert b"CONTAINER_PARTIAL_MESSAGE" not in last
    assert b"CONTAINER_PARTIAL_ID=id\nCONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=true\n" in last
    assert [b"CONTAINER_LOG_ORDINAL=%d\n" % number in data for number, data in ((1, first), (2, last))] == [True, True]


def test_entry_that_is_too_long_for_a_datagram_is_sent_as_a_sealed_memfd(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        journal.settimeout(10)
        labels = {"labels": "_odd.x", "tag": "t" * 400_000}
        writer = Journald(path).open_writer(INFO, labels)
        writer.write([LogBlock("stdout", b"text\n", 1)])
        _, (fd,), _, _ = socket.recv_fds(journal, 1 << 20, 1)
        writer.close()
    with open(fd, "rb") as file:
        found = os.pread(file.fileno(), 1 << 21, 0)
        assert b"ODD_X\n\x03\0\0\0\0\0\0\0a\nb\n" in found
        assert found.endswith(b"MESSAGE=text\n")
