"""Mutants of `Lines`, a log driver for a service. For each line, `Lines` sends STREAM, a space and the text over TCP."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from orlop_sdk import InvalidParameter, LogBlock, LogInfo, LogWriter
from orlop_sdk.logfiles import check_options
from orlop_sdk.logsending import LogLine, SendingWriter, ServiceLog, StreamSender, split_address

from ._change import Mutant, change, fail, replaced
from ._log import WrappedWriter, writing

__all__ = ["ADDRESS", "MUTANTS", "Lines", "lines"]

ADDRESS = "lines-address"


class _Sender(StreamSender):
    def encode(self, line: LogLine) -> bytes:
        return b"%s %s\n" % (line.stream.encode(), line.data)


class Lines(ServiceLog):
    """The driver without a fault."""

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("lines", options, {ADDRESS})

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        _, host, port, _ = split_address(options[ADDRESS])
        return SendingWriter("lines", _Sender((host, int(port or 0))), options)


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The lines that arrived at the service."""
    found = [text.partition(b" ") for record in records for text in record.split(b"\n")[:-1]]
    return [(stream.decode(), text) for stream, _, text in found]


def _strays(original: Any, self: Any, info: LogInfo, options: Mapping[str, str]) -> Any:
    with open(f"{info.directory}.lock", "w"):
        return original(info, options)


class _ClosesAtOnce(WrappedWriter):
    def close(self) -> None:
        self.inner._abandoned = True
        self.inner._blocks.clear()
        self.inner._size = 0
        self.inner.close()


def _wait(inner: Any, given: Sequence[LogBlock]) -> None:
    inner.write(given)
    end = time.monotonic() + 2 * (not getattr(inner, "waited", False))
    inner.waited = True  # later calls do not wait: one wait is enough for the check
    while inner._size and time.monotonic() < end:
        time.sleep(0.01)


def _connects_once(inner: Any, given: Sequence[LogBlock]) -> None:
    opened = inner._sender.open
    if not getattr(inner, "once", False):
        inner.once = True

        def open_once() -> None:
            if getattr(inner, "opened", False):
                raise OSError("no second connection")
            inner.opened = True
            opened()

        inner._sender.open = open_once
    inner.write(given)


MUTANTS = (
    Mutant("lacks `path`", "test_is_a_driver", replaced(Lines, path=None)),
    Mutant(
        "refuses its own option",
        "test_accepts_the_options_that_it_needs",
        replaced(Lines, validate=lambda _, o: check_options("lines", o, ())),
    ),
    Mutant("raises at each write", "test_writes_and_closes_twice", writing(lambda *_: fail(OSError("down")), Lines)),
    Mutant(
        "raises with another text",
        "test_readable_capability_is_true",
        replaced(Lines, open_reader=lambda *_: fail(InvalidParameter("no"))),
    ),
    Mutant("names a file", "test_path_exists_if_the_driver_stores", replaced(Lines, path=lambda *_: "/var/log/lines")),
    Mutant("writes beside its directory", "test_writes_only_in_its_directory", change(Lines, "open_writer", _strays)),
    Mutant(
        "raises for output that is not text",
        "test_any_bytes_are_accepted",
        writing(lambda inner, given: inner.write([replace(b, data=b.data.decode().encode()) for b in given]), Lines),
    ),
    Mutant("validates nothing", "test_unknown_option_is_refused", replaced(Lines, validate=lambda *_: None)),
    Mutant(
        "names another driver in its refusal",
        "test_unknown_option_is_refused",
        replaced(Lines, validate=lambda _, o: check_options("syslog", o, {ADDRESS})),
    ),
    Mutant(
        "does not validate mode",
        "test_mode_is_validated",
        change(
            Lines,
            "validate",
            lambda original, self, o: original({key: o[key] for key in o if key != "mode" and "buffer" not in key}),
        ),
    ),
    Mutant(
        "reverses blocks", "test_lines_arrive_in_order", writing(lambda inner, given: inner.write(list(given)[::-1]), Lines)
    ),
    Mutant(
        "loses standard error",
        "test_lines_arrive_in_order",
        writing(lambda inner, given: inner.write([b for b in given if b.stream == "stdout"]), Lines),
    ),
    Mutant(
        "loses blocks", "test_close_sends_what_is_queued", writing(lambda inner, given: inner.write(list(given)[::3]), Lines)
    ),
    Mutant(
        "drops its queue at the end",
        "test_close_sends_what_is_queued",
        change(
            Lines,
            "open_writer",
            lambda original, self, *a: _ClosesAtOnce(original(*a), lambda inner, given: inner.write(given)),
        ),
    ),
    Mutant(
        "cuts long lines",
        "test_long_line_arrives_whole",
        writing(lambda inner, given: inner.write([b for b in given if not b.partial]), Lines),
    ),
    Mutant("waits for the service", "test_service_blocks_no_container", writing(_wait, Lines)),
    Mutant("connects only once", "test_lines_arrive_after_the_service_was_down", writing(_connects_once, Lines)),
)
