"""The monitor's event loop: children, signals, closed sockets; and how a process is identified."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

from subprocesses import in_a_process

from orlop_monitor.loop import Loop
from orlop_sdk import linux


def test_process_is_identified_by_pid_and_start_time() -> None:
    child = subprocess.Popen(["true"])
    start_time = linux.process_start_time(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert linux.is_process(child.pid, start_time) and not linux.is_process(child.pid, start_time + 1)
    child.wait()
    assert not linux.is_process(child.pid, start_time)


def test_exit_status_of_a_child_is_kept_until_a_callback_is_registered() -> None:
    assert in_a_process(
        """
loop.hold_unclaimed()
pid = os.fork() or os._exit(7)
def claim():
    loop.on_child(pid, lambda status: (print(status), loop.stop()))
loop.on_child(os.fork() or os._exit(0), lambda status: loop.call_later(0.05, claim))
loop.run()
"""
    ) == ["7"]


def test_exit_status_of_an_unknown_child_is_dropped() -> None:
    """The exit status of a child is not stored if neither `on_child` nor `hold_unclaimed` was called for it."""
    assert in_a_process(
        """
pid = os.fork() or os._exit(7)
loop.on_child(pid + 100000, print)
loop.call_later(0.05, loop.stop)
loop.run()
print(loop._unclaimed)
"""
    ) == ["{}"]


def test_death_by_signal_is_reported_as_a_negative_status() -> None:
    code = "pid = os.fork() or os.kill(os.getpid(), 9)\nloop.on_child(pid, lambda s: (print(s), loop.stop()))\nloop.run()"
    assert in_a_process(code) == [str(-signal.SIGKILL)]


def test_half_close_of_a_socket_is_not_reported_as_hangup() -> None:
    said: list[str] = []
    loop = Loop()
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:

            def gone() -> None:
                said.append("gone")
                loop.forget(ours.fileno())
                loop.stop()

            def later() -> None:
                said.append("still there")
                theirs.close()

            loop.on_hangup(ours.fileno(), gone)
            theirs.shutdown(socket.SHUT_WR)
            loop.call_later(0.02, later)
            loop.run()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in (loop._wake, loop._wakeup):
            sock.close()
        loop._epoll.close()
    assert said == ["still there", "gone"]
