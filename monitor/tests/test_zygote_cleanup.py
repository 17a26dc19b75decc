"""The zygote's cleanup after a dead monitor, when the container is started again before the cleanup is finished."""

from types import SimpleNamespace

import pytest

from orlop_monitor import records, zygote
from orlop_monitor.protocol import InitRecord, MonitorRecord


@pytest.fixture
def one(monkeypatch):
    """A `Zygote` in the process of the test. `cgroups.kill` is replaced by a fake, which returns the values in `rounds` one
    after the other, and appends its arguments to `killed`."""
    made = object.__new__(zygote.Zygote)
    made._children, made._pending_cleanups, made._orphaned = {1}, 0, False
    made.later, made.killed, made.rounds = [], [], [False, True]
    made._loop = SimpleNamespace(call_later=lambda seconds, call: made.later.append(call), stop=lambda: None)
    monkeypatch.setattr(zygote.cgroups, "kill", lambda found: (made.killed.append(found), made.rounds.pop(0))[1])
    monkeypatch.setattr(zygote.orphans, "kill_children", lambda known: True)
    return made


def run(directory, pid, cgroup):
    records.clear(directory)
    records.write(directory, MonitorRecord(pid, 1, "c"))
    records.write(directory, InitRecord(100 + pid, 1, 1, (cgroup,)))


def test_container_of_a_dead_monitor_is_killed_and_its_exit_is_recorded(one, tmp_path):
    run(str(tmp_path), 1, "/sys/fs/cgroup/first")
    one._ended(1, -9, str(tmp_path))
    one.later.pop()()
    assert one.killed == [("/sys/fs/cgroup/first",)] * 2
    found = records.read_exit(str(tmp_path))
    assert found.code == 137 and found.error == "the container's monitor ended (signal 9); the container was killed"


def test_cleanup_after_a_dead_monitor_does_not_touch_the_next_run_of_the_container(one, tmp_path):
    run(str(tmp_path), 1, "/sys/fs/cgroup/first")
    one._ended(1, -9, str(tmp_path))
    run(str(tmp_path), 2, "/sys/fs/cgroup/second")
    one.later.pop()()
    assert one.killed == [("/sys/fs/cgroup/first",)] * 2
    assert records.read_exit(str(tmp_path)) is None
