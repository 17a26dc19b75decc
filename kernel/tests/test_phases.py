"""The log line with the phases of the daemon's start."""

from orlop_kernel.boot import phases


def test_each_phase_of_the_start_is_measured_from_the_end_of_the_previous_phase(monkeypatch):
    now = 100.0
    monkeypatch.setattr(phases.time, "monotonic", lambda: now)
    taken = phases.Phases(99.5)
    taken.end("imports")
    now += 0.25
    taken.end("containers")
    assert str(taken) == "750 ms (imports 500, containers 250)"
