"""The state machine of containers: its table, the fields that each event sets, and the values that Docker's clients see in
each phase."""

import re
from pathlib import Path

import pytest
from msgspec.structs import asdict

import orlop_engine
from orlop_engine.containers.state import TRANSITIONS, Event, InvalidTransition, Phase, State

PHASES = "created running paused restarting exited dead".split()

# Each pair of event and phase: the next phase, or "-" if it is refused.
TABLE = """
                    created     running     paused      restarting  exited      dead
started             running     -           -           running     running     -
start failed        created     -           -           exited      exited      -
paused              -           paused      paused      -           -           -
resumed             -           -           running     -           -           -
out of memory       created     running     paused      restarting  exited      dead
exited              created     exited      exited      exited      exited      dead
will restart        restarting  restarting  restarting  restarting  restarting  -
start announced     restarting  -           -           -           restarting  -
restart cancelled   -           -           -           exited      -           -
adopted             running     running     running     running     running     running
lost                created     exited      exited      exited      exited      dead
auto-remove failed  dead        -           -           -           dead        dead
"""
ROWS = [re.split(r"\s{2,}", line.strip()) for line in TABLE.strip().splitlines()]
PAIRS = [(row[0], phase, target) for row in ROWS[1:] for phase, target in zip(PHASES, row[1:], strict=True)]

APPLY = {
    Event.STARTED: lambda state: state.after_start(7, 8, 9),
    Event.START_FAILED: lambda state: state.after_failed_start(127, "not found"),
    Event.PAUSED: State.after_pause,
    Event.RESUMED: State.after_resume,
    Event.OUT_OF_MEMORY: State.after_oom,
    Event.EXITED: lambda state: state.after_exit(3, 20, False),
    Event.WILL_RESTART: lambda state: state.after_exit(3, 20, False, restart=True),
    Event.START_ANNOUNCED: State.after_start_announcement,
    Event.RESTART_CANCELLED: State.after_cancelled_restart,
    Event.ADOPTED: lambda state: state.after_adoption(7, 8, 9),
    Event.LOST: State.after_loss,
    Event.AUTO_REMOVE_FAILED: State.after_failed_auto_remove,
}


def state_in(phase):
    """A state with a value in each field. A test can compare it with the next state to find the fields that an event
    sets."""
    if phase is Phase.CREATED:
        return State()
    running = phase in (Phase.RUNNING, Phase.PAUSED)
    return State(
        phase,
        oom_killed=True,
        pid=5 if running else 0,
        pid_start_time=6 if running else 0,
        exit_code=1,
        error="an error",
        started_ns=10,
        finished_ns=11,
    )


def changed(before, after):
    """The changed fields, without the phase."""
    old = asdict(before)
    return {name: value for name, value in asdict(after).items() if name != "phase" and value != old[name]}


def test_transition_table_contains_every_pair_of_event_and_phase():
    assert ROWS[0] == PHASES == [phase.value for phase in Phase]
    assert [row[0] for row in ROWS[1:]] == [event.value for event in Event] == [event.value for event in APPLY]
    assert set(TRANSITIONS) == set(Phase) and len(PAIRS) == len(Phase) * len(Event)


@pytest.mark.parametrize(("event", "phase", "target"), PAIRS)
def test_each_event_is_allowed_or_refused_as_the_transition_table_says(event, phase, target):
    before = state_in(Phase(phase))
    if target == "-":
        with pytest.raises(
            InvalidTransition, match=f'internal error: event "{event}" .* container that is {phase}'
        ) as caught:
            APPLY[Event(event)](before)
        assert (caught.value.phase, caught.value.event) == (Phase(phase), Event(event))
    else:
        assert APPLY[Event(event)](before).phase is Phase(target)
    assert before == state_in(Phase(phase))


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (Event.START_FAILED, {"exit_code": 127, "error": "not found"}),
        (Event.OUT_OF_MEMORY, {}),
        (Event.RESTART_CANCELLED, {}),
        (Event.LOST, {}),
        (Event.EXITED, {"oom_killed": False, "exit_code": 3, "finished_ns": 20}),
        (Event.WILL_RESTART, {"oom_killed": False, "exit_code": 3, "finished_ns": 20}),
        (
            Event.STARTED,
            {"oom_killed": False, "pid": 7, "pid_start_time": 8, "exit_code": 0, "error": "", "started_ns": 9},
        ),
        (Event.ADOPTED, {"pid": 7, "pid_start_time": 8, "exit_code": 0, "error": "", "started_ns": 9}),
    ],
)
def test_events_of_a_container_without_a_process_set_their_fields(event, fields):
    before = state_in(Phase.RESTARTING)
    assert changed(before, APPLY[event](before)) == fields


@pytest.mark.parametrize(
    ("event", "fields"),
    [
        (Event.PAUSED, {}),
        (Event.LOST, {"pid": 0, "pid_start_time": 0}),
        (Event.EXITED, {"pid": 0, "pid_start_time": 0, "oom_killed": False, "exit_code": 3, "finished_ns": 20}),
        (Event.WILL_RESTART, {"pid": 0, "pid_start_time": 0, "oom_killed": False, "exit_code": 3, "finished_ns": 20}),
    ],
)
def test_events_of_a_container_with_a_process_set_their_fields(event, fields):
    before = state_in(Phase.RUNNING)
    assert changed(before, APPLY[event](before)) == fields


def test_resume_announcement_oom_and_unseen_exit_events_set_their_fields():
    assert changed(state_in(Phase.PAUSED), state_in(Phase.PAUSED).after_resume()) == {}
    assert changed(state_in(Phase.EXITED), state_in(Phase.EXITED).after_start_announcement()) == {}
    assert changed(state_in(Phase.EXITED), state_in(Phase.EXITED).after_failed_auto_remove()) == {}
    assert State().after_oom() == State(oom_killed=True)
    unseen = State().after_unseen_exit(15, 3, 20, True)
    assert unseen == State(Phase.EXITED, oom_killed=True, exit_code=3, started_ns=15, finished_ns=20)


def test_container_that_has_never_run_returns_to_phase_created_after_a_failed_start():
    """When the daemon starts, it announces a start that a crash of the last daemon interrupted. Then this start fails, or a
    client stops the container before it is started."""
    announced = State().after_start_announcement()
    assert announced.after_cancelled_restart().phase is Phase.CREATED
    assert announced.after_failed_start(128, "no").phase is Phase.CREATED
    assert announced.after_loss().phase is Phase.CREATED


@pytest.mark.parametrize(
    ("phase", "booleans"),
    [
        (Phase.CREATED, ()),
        (Phase.RUNNING, ("running",)),
        (Phase.PAUSED, ("running", "paused")),
        (Phase.RESTARTING, ("running", "restarting")),
        (Phase.EXITED, ()),
        (Phase.DEAD, ("dead",)),
    ],
)
def test_each_phase_determines_dockers_status_and_state_booleans(phase, booleans):
    state = State(phase)
    assert tuple(name for name in ("running", "paused", "restarting", "dead") if getattr(state, name)) == booleans
    assert state.status == phase.value


def test_only_the_state_machine_sets_phases():
    root = Path(orlop_engine.__file__).parent
    allowed = {root / "containers" / "state.py", root / "containers" / "record.py"}  # `record.py` reads old rows
    names = re.compile(r"\bPhase\b|\bState\(Phase|\bphase=")
    assert [
        str(path)
        for path in sorted(root.rglob("*.py"))
        if path not in allowed and names.search(path.read_text())
    ] == []  # fmt: skip
