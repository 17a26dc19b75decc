"""Merged logs of several containers, and `wait --healthy`."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orlop_cli.attached.many_logs import Inbox, Line, split_lines
from orlop_cli.testing import RecordedDaemon, answer, chunked, frame

pytestmark = pytest.mark.usefixtures("clean")
MULTIPLEXED = {"Content-Type": "application/vnd.docker.multiplexed-stream"}


def stamp(second: float) -> bytes:
    return f"2026-01-01T00:00:{second:09.6f}Z".encode()


def serve(daemon: RecordedDaemon, name: str, frames: list[bytes], tty: bool = False) -> None:
    daemon.on("GET", f"/containers/{name}/json", answer({"Id": name, "Name": f"/{name}", "Config": {"Tty": tty}}))
    daemon.on("GET", f"/containers/{name}/logs", chunked(frames, MULTIPLEXED))


def test_logs_are_merged_by_time(daemon: RecordedDaemon, orlop: Any) -> None:
    serve(daemon, "web", [frame(1, stamp(1) + b" one\n"), frame(1, stamp(3) + b" three\n" + stamp(5) + b" five\n")])
    serve(daemon, "db", [frame(1, stamp(2) + b" two\n"), frame(2, stamp(2.5) + b" problem\n"), frame(1, stamp(4) + b" fo")])
    done = orlop("logs", "web", "db")
    assert done.out == "web | one\ndb  | two\nweb | three\ndb  | fo\nweb | five\n"
    assert (done.err, done.code) == ("db  | problem\n", 0)
    assert "timestamps=1" in daemon.find("GET", "/containers/web/logs").target


def test_merged_logs_of_a_tty_container_and_another_container_are_printed_with_timestamps(
    daemon: RecordedDaemon, orlop: Any
) -> None:
    serve(daemon, "a", [stamp(1) + b" x\r\n", stamp(3) + b" z\n"], tty=True)
    serve(daemon, "b", [frame(1, stamp(2) + b" y\n")])
    expected = [b"a | " + stamp(1) + b" x\r\n", b"b | " + stamp(2) + b" y\n", b"a | " + stamp(3) + b" z\n"]
    assert orlop("logs", "-t", "a", "b").out.encode() == b"".join(expected)


def test_logs_of_all_containers_are_printed_even_if_one_log_cannot_be_read(daemon: RecordedDaemon, orlop: Any) -> None:
    serve(daemon, "web", [frame(1, stamp(1) + b" one\n")])
    serve(daemon, "mute", [])
    daemon.on("GET", "/containers/mute/logs", answer({"message": "the log driver cannot read"}, 501))
    daemon.on("GET", "/containers/json", answer([{"Id": "web"}, {"Id": "mute"}]))
    done = orlop("logs", "--all")
    assert (done.out, done.code) == ("web  | one\n", 1)
    assert done.err == "orlop: Error response from daemon: the log driver cannot read\n"
    assert daemon.find("GET", "/containers/json").target.endswith("?all=1")


def test_logs_command_needs_either_names_or_the_flag_all(orlop: Any) -> None:
    """`orlop logs` needs either names or `--all`, and refuses both together."""
    assert "requires at least 1 argument" in orlop("logs").err
    assert "not both" in orlop("logs", "--all", "web").err


def test_timestamps_with_different_numbers_of_digits_are_ordered() -> None:
    """The fraction of a second may have any number of digits."""
    (lines, _) = split_lines(iter([b"2026-01-01T00:00:01.1Z b\n2026-01-01T00:00:01.05Z a\n2026-01-01T00:00:01Z z\n"]), False)
    assert sorted(lines, key=lambda line: line.stamp) == [lines[2], lines[1], lines[0]]


def test_line_of_a_followed_log_is_printed_although_another_log_is_silent() -> None:
    inbox = Inbox(2, 0.01)
    inbox.put(0, [Line(b"1", 1, b"x")])
    taken: list[Any] = []
    thread = threading.Thread(target=lambda: taken.append(inbox.take()), daemon=True)
    thread.start()
    thread.join(20)
    assert [line.text for _, line in taken[0]] == [b"x"]


def test_log_line_is_printed_after_an_earlier_line_of_another_log() -> None:
    inbox = Inbox(2, None)
    inbox.put(0, [Line(b"2", 1, b"second")])
    threading.Timer(0.05, lambda: (inbox.put(1, [Line(b"1", 1, b"first")]), inbox.end(1), inbox.end(0))).start()
    seen = []
    while (lines := inbox.take()) is not None:
        seen += [line.text for _, line in lines]
    assert seen == [b"first", b"second"]


# --- wait --healthy


def state(health: str | None, **fields: Any) -> bytes:
    found = {"Status": "running", "Running": True, "ExitCode": 0, **fields}
    if health:
        found["Health"] = {"Status": health, "Log": [{"Output": "refused\n"}]}
    return answer({"State": found})


def test_wait_command_returns_when_the_container_is_healthy(daemon: RecordedDaemon, orlop: Any) -> None:
    daemon.on("GET", "/containers/db/json", state("healthy"))
    daemon.on("GET", "/containers/db/json", state("starting"), times=1)
    done = orlop("wait", "--healthy", "db")
    assert (done.out, done.code) == ("db\n", 0)
    assert daemon.seen() == ["GET /containers/db/json"] * 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (state("unhealthy"), "container db is unhealthy: refused"),
        (state(None), "container db has no health check"),
        (state("starting", Status="exited", Running=False, ExitCode=3), "container db is not running (exited, exit code 3)"),
        (state("starting"), "container db did not become healthy in time (starting)"),
        (answer({"message": "No such container: db"}, 404), "No such container: db"),
    ],
)
def test_wait_command_fails_if_the_container_cannot_become_healthy(
    daemon: RecordedDaemon, orlop: Any, reply: bytes, words: str
) -> None:
    daemon.on("GET", "/containers/db/json", reply)
    done = orlop("wait", "--healthy", "--timeout", "0", "db")
    assert (done.out, done.code) == ("", 1)
    assert words in done.err


def test_wait_command_refuses_a_timeout_without_the_flag_healthy(orlop: Any) -> None:
    """`orlop wait` accepts `--timeout` only together with `--healthy`."""
    assert "needs --healthy" in orlop("wait", "--timeout", "3", "db").err
