"""Mutants of `FakeLog`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from orlop_sdk import InvalidParameter, LogBlock, LogCapabilities, LogInfo, LogQuery, LogRecord, NotImplementedHere
from orlop_sdk.testing.log import FakeLog

from ._change import Mutant, change, fail, replaced

__all__ = ["MUTANTS", "WrappedReader", "WrappedWriter", "writing"]


class WrappedWriter:
    """Calls `write(inner, blocks)` instead of the writer's `write`."""

    def __init__(self, inner: Any, write: Callable[[Any, Sequence[LogBlock]], None]) -> None:
        self.inner, self._write = inner, write
        self.closed = 0

    def write(self, blocks: Sequence[LogBlock]) -> None:
        self._write(self.inner, blocks)

    def close(self) -> None:
        self.inner.close()


class WrappedReader:
    """Passes the records of each read through `alter`."""

    def __init__(self, inner: Any, alter: Callable[[list[LogRecord]], Sequence[LogRecord]]) -> None:
        self._inner, self._alter = inner, alter

    def read(self) -> Sequence[LogRecord]:
        return self._alter(list(self._inner.read()))

    def fileno(self) -> int:
        found: int = self._inner.fileno()
        return found

    def close(self) -> None:
        self._inner.close()


def writing(write: Callable[[Any, Sequence[LogBlock]], None], base: Any = FakeLog) -> Any:
    return change(base, "open_writer", lambda original, self, *args: WrappedWriter(original(*args), write))


def reading(alter: Callable[[list[LogRecord]], Sequence[LogRecord]]) -> Any:
    return change(FakeLog, "open_reader", lambda original, self, *args: WrappedReader(original(*args), alter))


def asking(alter: Callable[[LogQuery], LogQuery]) -> Any:
    return change(FakeLog, "open_reader", lambda original, self, info, options, query: original(info, options, alter(query)))


def blocks(alter: Callable[[LogBlock], LogBlock]) -> Any:
    return writing(lambda inner, given: inner.write([alter(block) for block in given]))


class _ClosesOnce(WrappedWriter):
    def close(self) -> None:
        self.closed += 1
        if self.closed > 1:
            raise ValueError("it is closed")


def _write_first(inner: Any, given: Sequence[LogBlock]) -> None:
    inner.write([given[0], *given[1:]])  # raises IndexError for an empty list


def _strays(original: Any, self: Any, info: LogInfo, options: Any) -> Any:
    with open(f"{info.directory}.lock", "w"):
        return original(info, options)


def _only_names(original: Any, self: Any, options: dict[str, str]) -> None:
    original({key: value for key, value in options.items() if key not in ("mode", "max-buffer-size")})


def _empties(original: Any, self: Any, info: LogInfo, options: Any) -> Any:
    self._of(info)[0].clear()
    return original(info, options)


def _forgets_last(original: Any, self: Any, info: LogInfo, options: Any) -> Any:
    del self._of(info)[0][-1:]
    return original(info, options)


def _leaks(original: Any, self: Any, *args: Any) -> Any:
    self.leaked = [*getattr(self, "leaked", ()), os.open("/dev/null", os.O_RDONLY)]
    return original(*args)


def _never_wakes(inner: Any, given: Sequence[LogBlock]) -> None:
    wake, inner._wake = inner._wake, []
    inner.write(given)
    inner._wake = wake


class _AlwaysReadable(WrappedReader):
    def read(self) -> Sequence[LogRecord]:
        found = super().read()
        os.eventfd_write(self.fileno(), 1)
        return found


def _follows_always(original: Any, self: Any, info: LogInfo, options: Any, query: LogQuery) -> Any:
    reader = original(info, options, query)
    reader._end = None
    return reader


def _without_empty_logs(original: Any, self: Any, info: LogInfo, options: Any, query: LogQuery) -> Any:
    if not self._of(info)[0]:
        raise FileNotFoundError("no log")
    return original(info, options, query)


def _tail_after_since(original: Any, self: Any, info: LogInfo, options: Any, query: LogQuery) -> Any:
    reader = original(info, options, replace(query, tail=None))
    return WrappedReader(reader, lambda found: found[-query.tail :] if query.tail else found)  # applies `tail` after `since`


def _ignores_follow_in_empty_logs(original: Any, self: Any, info: LogInfo, options: Any, query: LogQuery) -> Any:
    skipped: list[LogRecord] = [] if not self._of(info)[0] else [LogRecord("", b"", "")]

    def skip_one(found: list[LogRecord]) -> list[LogRecord]:
        while found and not skipped:
            skipped.append(found.pop(0))
        return found

    return WrappedReader(original(info, options, query), skip_one)


def _limited(most: int) -> Any:
    def write(inner: Any, given: Sequence[LogBlock]) -> None:
        if len(inner._log) < most:
            inner.write(given)

    return writing(write)


def _twice(every: int) -> Any:
    def write(inner: Any, given: Sequence[LogBlock]) -> None:
        before = len(inner._log) // every
        inner.write(given)
        if len(inner._log) // every > before:
            inner._log.append(inner._log[-1])

    return writing(write)


def _counts_blocks(original: Any, self: Any, info: LogInfo, options: Any, query: LogQuery) -> Any:
    reader = original(info, options, query)
    if query.tail and query.tail < len(self._of(info)[0]):
        reader._next = 0  # the beginning of the block that contains the first requested entry
    return reader


def _swap(block: LogBlock) -> LogBlock:
    return replace(block, stream="stderr" if block.stream == "stdout" else "stdout")


_NO_ENTRIES: tuple[LogRecord, ...] = ()
_TAILED = "test_tail_returns_the_last_entries"
_ORDER = "test_order_streams_and_times_are_kept"

MUTANTS = (
    Mutant("lacks `path`", "test_is_a_driver", replaced(FakeLog, path=None)),
    Mutant(
        "refuses all options",
        "test_accepts_the_options_that_it_needs",
        replaced(FakeLog, validate=lambda *_: fail(InvalidParameter("no"))),
    ),
    Mutant(
        "cannot be closed twice",
        "test_writes_and_closes_twice",
        change(
            FakeLog,
            "open_writer",
            lambda original, self, *a: _ClosesOnce(original(*a), lambda inner, given: inner.write(given)),
        ),
    ),
    Mutant("fails without blocks", "test_writes_and_closes_twice", writing(_write_first)),
    Mutant("raises at each write", "test_writes_and_closes_twice", writing(lambda *_: fail(OSError("disk")))),
    Mutant("opens nothing", "test_writes_and_closes_twice", replaced(FakeLog, open_writer=lambda *_: None)),
    Mutant(
        "has no reader",
        "test_readable_capability_is_true",
        replaced(FakeLog, open_reader=lambda *_: fail(NotImplementedHere("no reader"))),
    ),
    Mutant(
        "denies its reader",
        "test_readable_capability_is_true",
        replaced(FakeLog, capabilities=LogCapabilities(readable=False, stores=False)),
    ),
    Mutant(
        "names a file that does not exist",
        "test_path_exists_if_the_driver_stores",
        replaced(FakeLog, path=lambda *_: "/no/such/log"),
    ),
    Mutant(
        "stores no file",
        "test_path_exists_if_the_driver_stores",
        replaced(FakeLog, capabilities=LogCapabilities(readable=True, stores=True)),
    ),
    Mutant("writes beside its directory", "test_writes_only_in_its_directory", change(FakeLog, "open_writer", _strays)),
    Mutant(
        "raises for output that is not text",
        "test_any_bytes_are_accepted",
        blocks(lambda block: replace(block, data=block.data.decode().encode())),
    ),
    Mutant("waits at each write", "test_any_bytes_are_accepted", writing(lambda *_: time.sleep(1.5))),
    Mutant("validates nothing", "test_unknown_option_is_refused", replaced(FakeLog, validate=lambda *_: None)),
    Mutant("validates only names", "test_mode_and_buffer_size_are_validated", change(FakeLog, "validate", _only_names)),
    Mutant("cannot read an empty log", "test_empty_log_is_read", change(FakeLog, "open_reader", _without_empty_logs)),
    Mutant("reverses entries", _ORDER, writing(lambda inner, given: inner.write(list(given)[::-1]))),
    Mutant("loses the last block", _ORDER, writing(lambda inner, given: inner.write(given[:-1]))),
    Mutant("swaps the streams", _ORDER, blocks(_swap)),
    Mutant(
        "has no fractions of seconds", _ORDER, blocks(lambda block: replace(block, time_ns=block.time_ns // 10**9 * 10**9))
    ),
    Mutant("uses its own time", _ORDER, blocks(lambda block: replace(block, time_ns=time.time_ns()))),
    Mutant("invents attributes", _ORDER, reading(lambda found: [replace(record, attrs={"a": "b"}) for record in found])),
    Mutant("loses empty lines", _ORDER, reading(lambda found: [record for record in found if record.data != b"\n"])),
    Mutant(
        "drops what is not ASCII",
        "test_text_is_read_as_written",
        blocks(lambda b: replace(b, data=b.data.decode("ascii", "ignore").encode())),
    ),
    Mutant(
        "ends lines with CR",
        "test_text_is_read_as_written",
        reading(lambda found: [replace(r, data=r.data[:-1] + b"\r\n") for r in found]),
    ),
    Mutant(
        "ends pieces with a newline",
        "test_partial_pieces_stay_partial",
        reading(lambda found: [replace(r, data=r.data.rstrip(b"\n") + b"\n") for r in found]),
    ),
    Mutant(
        "cuts pieces",
        "test_partial_pieces_stay_partial",
        blocks(lambda b: replace(b, data=b.data[:8192]) if b.partial else b),
    ),
    Mutant("begins anew at each start", "test_reopen_appends", change(FakeLog, "open_writer", _empties)),
    Mutant(
        "returns one entry too many",
        _TAILED,
        asking(lambda query: replace(query, tail=query.tail + 1) if query.tail else query),
    ),
    Mutant("ignores tail", _TAILED, asking(lambda query: replace(query, tail=None))),
    Mutant("returns all for a tail of 0", _TAILED, asking(lambda query: replace(query, tail=query.tail or None))),
    Mutant("returns whole blocks", "test_tail_may_start_within_a_block", change(FakeLog, "open_reader", _counts_blocks)),
    Mutant(
        "excludes since", "test_since_and_until_are_inclusive", asking(lambda q: replace(q, since=q.since and q.since + 1))
    ),
    Mutant(
        "excludes until", "test_since_and_until_are_inclusive", asking(lambda q: replace(q, until=q.until and q.until - 1))
    ),
    Mutant("ignores since", "test_since_and_until_are_inclusive", asking(lambda q: replace(q, since=0))),
    Mutant("ignores until", "test_since_and_until_are_inclusive", asking(lambda q: replace(q, until=0))),
    Mutant(
        "rounds since to seconds",
        "test_since_may_be_between_two_entries",
        asking(lambda q: replace(q, since=q.since // 10**9 * 10**9)),
    ),
    Mutant(
        "rounds until up",
        "test_since_may_be_between_two_entries",
        asking(lambda q: replace(q, until=-(-q.until // 10**9) * 10**9)),
    ),
    Mutant(
        "counts tail after since", "test_tail_is_counted_before_since", change(FakeLog, "open_reader", _tail_after_since)
    ),
    Mutant(
        "loses the first entry",
        "test_follow_may_start_before_the_log",
        change(FakeLog, "open_reader", _ignores_follow_in_empty_logs),
    ),
    Mutant(
        "follows all in spite of tail",
        "test_follow_continues_after_tail",
        asking(lambda q: replace(q, tail=None) if q.follow else q),
    ),
    Mutant("never wakes a follower", "test_descriptor_is_readable_only_after_a_write", writing(_never_wakes)),
    Mutant(
        "wakes a follower for nothing",
        "test_descriptor_is_readable_only_after_a_write",
        change(FakeLog, "open_reader", lambda original, self, *a: _AlwaysReadable(original(*a), lambda found: found)),
    ),
    Mutant("continues without follow", "test_reader_without_follow_ends", change(FakeLog, "open_reader", _follows_always)),
    Mutant("repeats an entry", "test_follow_continues_across_rotations", _twice(1000)),
    Mutant("repeats an entry in the middle", "test_readers_continue_while_rotation_deletes_files", _twice(700)),
    Mutant(
        "loses the last entry at an open",
        "test_truncated_log_loses_only_its_last_record",
        change(FakeLog, "open_writer", _forgets_last),
    ),
    Mutant(
        "loses much for little damage",
        "test_damage_loses_only_damaged_records",
        reading(lambda found: found[:10] + found[20:]),
    ),
    Mutant("stops logging after a full disk", "test_full_disk_drops_whole_entries", _limited(500)),
    Mutant("leaks a descriptor per reader", "test_descriptors_are_closed", change(FakeLog, "open_reader", _leaks)),
    Mutant("leaks a descriptor per writer", "test_descriptors_are_closed", change(FakeLog, "open_writer", _leaks)),
)
