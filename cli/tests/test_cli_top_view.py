"""The view of `orlop top` without a terminal: keys, messages of the daemon, and the lines of the screen."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_cli.fullscreen import cells, keys, loop, model, rows, view
from orlop_cli.fullscreen.keys import Call, Close, Open, Quit, Redraw, Refresh, Shell
from orlop_cli.fullscreen.model import State
from orlop_cli.fullscreen.samples import Counters, Sample, counters, sample


def container(name: str, state: str = "running", status: str = "Up 2 hours", **more: Any) -> dict[str, Any]:
    return {"Id": f"id-{name}", "Names": [f"/{name}"], "Image": "nginx", "State": state, "Status": status, **more}


CONTAINERS = [
    container("web", status="Up 2 hours (healthy)"),
    container("db", status="Up 2 hours (unhealthy)", Image="postgres:17"),
    container("job", "exited", "Exited (137) 3 minutes ago"),
    container("shell", "paused", "Up 5 minutes (Paused)"),
]
SAMPLES = {
    "id-web": Sample(50 << 20, 64 << 20, 5, 2.04, 7440.0, 74.4, None),
    "id-db": Sample(63 << 20, 64 << 20, 12, 180.5, 0.0, 0.0, 40.0),
}


def started(width: int = 80, height: int = 12, items: Any = CONTAINERS, samples: Any = SAMPLES) -> State:
    state = model.listed(State("unix:///run/orlop.sock", width, height), "containers", items)
    return model.sampled(state, samples)


def typed(state: State, *pressed: str) -> tuple[State, list[Any]]:
    effects: list[Any] = []
    for key in pressed:
        state, more = keys.press(state, key)
        effects += more
    return state, effects


def screen(state: State) -> str:
    return view.plain(view.render(state))


def names(state: State) -> list[str]:
    return [row.name for row in model.shown(state)]


def many(number: int) -> list[dict[str, Any]]:
    return [container(f"c{at:03}") for at in range(number)]


# --- the screen


def test_screen_of_80_columns_shows_resource_usage() -> None:
    assert screen(started()) == "\n".join(
        [
            "orlop top  unix:///run/orlop.sock  2 of 4 running",
            "1Cont 2Img 3Vol 4Net 5Cache   by NAME",
            "NAME            STATE      HEALTH      CPU %      MEM  MEM %    NET IN   NET OUT",
            "db              unhealthy  unhealthy   180.5    63MiB   98.4      0B/s      0B/s",
            "job             exited 137 -               -        -      -         -         -",
            "shell           paused     -               -        -      -         -         -",
            "web             running    healthy       2.0    50MiB   78.1  7.44kB/s   74.4B/s",
            *[""] * 4,
            "? help l log e shell i inspect x explain s stop S Start r restart p pause",
        ]
    )


def test_screen_of_40_columns_shows_the_important_columns() -> None:
    assert screen(started(40, 8)) == "\n".join(
        [
            "orlop top  unix:///run/orlop.sock  2 of",
            "1Cont 2Img 3Vol 4Net 5Cache   by NAME",
            "NAME         STATE        CPU %      MEM",
            "db           unhealthy    180.5    63MiB",
            "job          exited 137       -        -",
            "shell        paused           -        -",
            "web          running        2.0    50MiB",
            "? help l log e shell i inspect",
        ]
    )


@pytest.mark.parametrize("page", rows.PAGES)
@pytest.mark.parametrize("mode", ["list", "filter", "help", "text", "ask"])
def test_screen_of_every_size_is_filled_exactly(page: str, mode: str) -> None:
    items = {
        "containers": [*CONTAINERS, container("日本語コンテナ", Ports=[{"PrivatePort": 80, "Type": "tcp"}])],
        "images": [{"Id": "sha256:" + "a" * 64, "RepoTags": ["nginx:1"], "Size": 5, "Created": 1}],
        "volumes": [{"Name": "data", "Driver": "local", "CreatedAt": "2026-01-01T00:00:00Z", "Mountpoint": "/v"}],
        "networks": [{"Id": "b" * 64, "Name": "front", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}]}}],
        "cache": [{"ID": "c" * 25, "Type": "regular", "Size": 7, "InUse": True, "Description": "[1/2] RUN true"}],
    }
    for width, height in ((1, 1), (2, 2), (9, 3), (40, 10), (79, 24), (132, 43), (250, 5)):
        state = State("unix:///run/orlop.sock", width, height, page, {page: items[page]}, mode=mode, filter="a")
        text = model.Text("log web", 1, ("short", "日本語" * 30, ""), ended="end of the log")
        state = state._replace(text=text, question=model.Question("Remove it? (y/n)", None))
        lines = view.render(model.settle(state))
        assert len(lines) == height
        for line in lines:
            assert cells.width("".join(span.text for span in line)) == width
            assert {span.style for span in line} <= set(view.STYLES)


def test_control_characters_of_a_container_do_not_reach_the_terminal() -> None:
    evil = container("a", Image="x\x1b[2J\r\n\u202e")
    text = screen(started(200, items=[evil]))
    assert "x\\x1b[2J\\x0d\\x0a\\u202e" in text
    assert not set(text) & set("\x1b\r\u202e")


def test_states_that_need_attention_are_coloured() -> None:
    styles = {span.text.strip(): span.style for line in view.render(started(100)) for span in line if span.text.strip()}
    assert (styles["healthy"], styles["running"]) == ("good", "good")
    assert (styles["exited 137"], styles["paused"]) == ("bad", "warn")
    below = started(100, samples={"id-web": SAMPLES["id-db"]})
    assert [span.style for line in view.render(below) for span in line if span.text.strip() == "98.4"] == ["bad"]


def test_wide_characters_are_cut_at_the_width() -> None:
    assert cells.fit("日本語", 5) == "日本 " and cells.fit("ab", 4, right=True) == "  ab"
    assert cells.width("e\u0301") == 1
    assert cells.wrap("日本語ab", 4) == ["日本", "語ab"] and cells.wrap("", 4) == [""]
    assert cells.wrap("日", 1) == ["日"]


# --- messages of the daemon


def test_selection_stays_on_its_container_when_the_list_changes() -> None:
    state, _ = typed(started(), "down", "down")
    assert (state.chosen["containers"]) == "id-shell"
    state = model.listed(state, "containers", [container("a"), *CONTAINERS])
    assert state.chosen["containers"] == "id-shell"
    state = model.listed(state, "containers", [one for one in CONTAINERS if one["Id"] != "id-shell"])
    assert state.chosen["containers"] == "id-web"  # the row after the removed row
    state = model.listed(state, "containers", CONTAINERS[1:2])
    assert state.chosen["containers"] == "id-db"
    state = model.listed(state, "containers", [])
    assert state.chosen["containers"] == "" and "no containers" in screen(state)


def test_rows_stay_visible_when_the_connection_to_the_daemon_is_lost() -> None:
    state = model.lost(started(), "no such file")
    lines = screen(state).splitlines()
    assert lines[0] == "connection lost, trying again: no such file"
    assert lines[3].split()[:4] == ["db", "unhealthy", "unhealthy", "-"]
    assert screen(model.listed(state, "containers", CONTAINERS)).startswith("orlop top")


def test_daemon_that_does_not_answer_is_reported() -> None:
    assert "no answer" not in screen(started()._replace(silent=view.SILENCE - 1))
    assert screen(started()._replace(silent=17)).startswith("no answer for 17 s  orlop top")


def test_resource_usage_of_removed_and_stopped_containers_is_dropped() -> None:
    state = model.sampled(started(), {"id-db": None})
    assert set(state.samples) == {"id-web"}
    assert model.listed(state, "containers", CONTAINERS[1:]).samples == {}


def test_only_visible_containers_are_sampled() -> None:
    state = started(80, 10, many(200))
    assert model.to_sample(state, 0) == [f"id-c{at:03}" for at in range(6)]
    state, _ = typed(state, "pagedown")
    assert model.to_sample(state, 0) == [f"id-c{at:03}" for at in range(1, 7)]
    assert model.to_sample(typed(state, "2")[0], 0) == []
    assert model.to_sample(typed(state, "l")[0], 0) == []
    assert model.to_sample(started(), 0) == ["id-db", "id-shell", "id-web"]  # the exited container is not sampled


def test_list_sorted_by_usage_also_samples_invisible_containers_in_turns() -> None:
    """If the list is sorted by a figure, each round also samples a few containers that are not visible. After some rounds,
    all containers have been sampled."""
    state = started(80, 10, many(30))
    while model.order(state)[0] != "CPU %":
        state, _ = typed(state, "o")
    seen: set[str] = set()
    for rounds in range(10):
        wanted = model.to_sample(state, rounds)
        assert len(wanted) == len(set(wanted)) == 6 + model.BEHIND
        seen |= set(wanted)
    assert len(seen) == 30


def stats(used: int, system: int, received: int, periods: tuple[int, int] = (0, 0)) -> dict[str, Any]:
    return {
        "read": "2026-01-01T00:00:00Z",
        "cpu_stats": {
            "cpu_usage": {"total_usage": used},
            "system_cpu_usage": system,
            "online_cpus": 2,
            "throttling_data": {"periods": periods[0], "throttled_periods": periods[1]},
        },
        "memory_stats": {"usage": 1000, "limit": 4000, "stats": {"inactive_file": 100}},
        "networks": {"eth0": {"rx_bytes": received, "tx_bytes": 10}},
        "pids_stats": {"current": 3},
    }


def test_rates_are_computed_from_two_successive_stats_answers() -> None:
    first = counters(stats(10**9, 10**10, 500, (10, 1)), 1.0)
    assert first and sample(None, first) == Sample(900, 4000, 3)
    second = Counters(stats(2 * 10**9, 2 * 10**10, 1500, (20, 6)), 3.0)
    assert sample(first, second) == Sample(900, 4000, 3, 20.0, 500.0, 0.0, 50.0)
    assert sample(second, Counters(stats(0, 3 * 10**10, 5), 4.0)) == Sample(900, 4000, 3)  # the container restarted
    without = stats(2 * 10**9, 2 * 10**10, 0)
    del without["networks"]
    assert sample(Counters({**without}, 0.0), Counters(without, 1.0)).received is None
    assert counters({"read": "0001-01-01T00:00:00Z"}, 1.0) is None
    assert Sample(1, 0, 1).share is None


# --- keys


def test_selected_row_stays_visible_while_the_user_moves_the_selection() -> None:
    state = started(80, 10, many(50))
    for key, expected in (("end", 49), ("up", 48), ("pageup", 42), ("home", 0), ("down", 1), ("pagedown", 7), ("up", 6)):
        state, effects = typed(state, key)
        assert (effects, state.chosen["containers"]) == ([], f"id-c{expected:03}")
        assert state.chosen["containers"] in [row.key for row in model.visible(state)]
        assert len(model.visible(state)) == 6


def test_typed_filter_hides_other_rows_until_escape_is_pressed() -> None:
    state, _ = typed(started(), "/", "p", "o", "s", "t")
    assert names(state) == ["db"] and "filter: post_" in screen(state)
    state, effects = typed(state, "q", "backspace", "enter", "q")
    assert effects == [Quit()] and names(state) == ["db"]
    assert "/post" in screen(state)
    assert names(typed(state, "escape")[0]) == ["db", "job", "shell", "web"]
    state, _ = typed(started(), "/", "%")
    assert "no row contains '%'" in screen(state)
    assert names(typed(state, "escape")[0]) == ["db", "job", "shell", "web"]


def test_sort_order_is_changed_with_keys() -> None:
    state = started(80)
    seen = []
    for _ in range(8):
        seen.append(model.order(state)[0])
        state, _ = typed(state, "o")
    assert seen == ["NAME", "STATE", "HEALTH", "CPU %", "MEM", "MEM %", "NET IN", "NET OUT"]
    assert model.order(state) == ("NAME", False)
    assert names(typed(state, "O")[0]) == ["web", "shell", "job", "db"]
    by_cpu, _ = typed(state, "o", "o", "o")
    assert names(by_cpu) == ["db", "web", "job", "shell"]
    assert names(typed(by_cpu, "O")[0]) == ["web", "db", "job", "shell"]  # rows without a figure stay last


def test_key_a_hides_containers_that_do_not_run() -> None:
    state, _ = typed(started(), "a")
    assert names(state) == ["db", "shell", "web"]
    state = model.listed(state, "containers", CONTAINERS[2:3])
    assert "no container is running (a: show all)" in screen(state)
    assert names(typed(state, "a")[0]) == ["job"]


def test_number_keys_and_tab_switch_between_pages() -> None:
    state = started()
    for key, page in (("2", "images"), ("tab", "volumes"), ("right", "networks"), ("5", "cache"), ("tab", "containers")):
        state, effects = typed(state, key)
        assert (state.page, effects) == (page, [Refresh()])
    assert typed(state, "backtab")[0].page == "cache"
    assert typed(state, "9") == (state, [])
    state, _ = typed(state, "3")
    assert "loading" in screen(state)
    assert "no volumes" in screen(model.listed(state, "volumes", []))


@pytest.mark.parametrize(("key", "verb"), [("s", "stop"), ("S", "start"), ("r", "restart"), ("p", "pause")])
def test_key_stops_starts_restarts_or_pauses_the_selected_container(key: str, verb: str) -> None:
    state, effects = typed(started(), key)
    assert effects == [Call(verb, "containers", "id-db", "db")]
    assert f"{verb} db ..." in screen(state)
    assert "cannot" in screen(model.note(state, "cannot stop db: busy", failed=True)).splitlines()[-1]
    assert screen(typed(state, "unknown")[0]) == screen(state)
    assert "? help" in screen(typed(state, "down")[0])  # the next key removes the message


def test_pause_key_resumes_a_paused_container() -> None:
    assert typed(started(), "down", "down", "p")[1] == [Call("unpause", "containers", "id-shell", "shell")]


@pytest.mark.parametrize("key", ["d", "delete"])
def test_removal_key_asks_for_confirmation(key: str) -> None:
    state, effects = typed(started(), key)
    assert effects == [] and screen(state).endswith("Remove running container db, which kills it? (y/n)")
    for answer in ("n", "q", "enter", "escape", " "):
        assert typed(state, answer)[1] == []
        assert typed(state, answer)[0].mode == "list"
    assert typed(state, "y")[1] == [Call("remove", "containers", "id-db", "db")]
    stopped, _ = typed(started(), "down", key)
    assert screen(stopped).endswith("Remove container job? (y/n)")


def test_confirmation_of_a_volume_removal_mentions_the_data() -> None:
    state, _ = typed(started(), "3")
    state, effects = typed(model.listed(state, "volumes", [{"Name": "data"}]), "d", "y")
    assert effects == [Call("remove", "volumes", "data", "data")]
    assert "Remove volume data and its data? (y/n)" in screen(typed(state, "d")[0])


def test_image_with_a_tag_is_removed_by_its_tag() -> None:
    images = [
        {"Id": "sha256:" + "a" * 64, "RepoTags": ["r.io:5000/b:2", "a:1"]},
        {"Id": "sha256:" + "b" * 64, "RepoTags": []},
    ]
    state, _ = typed(started(), "2")
    state = model.listed(state, "images", images)
    assert names(state) == ["b" * 12, "a:1", "r.io:5000/b:2"]
    assert typed(state, "home", "d", "y")[1][0].key == "sha256:" + "b" * 64
    assert typed(state, "home", "down", "d", "y")[1] == [Call("remove", "images", "a:1", "a:1")]


def test_key_for_a_shell_needs_a_running_container() -> None:
    assert typed(started(), "e")[1] == [Shell("id-db", "db")]
    state, effects = typed(started(), "down", "e")
    assert effects == [] and screen(state).endswith("job is not running: S starts it")


def test_log_view_shows_new_lines_until_the_user_scrolls_up() -> None:
    state, effects = typed(started(80, 10), "l")
    assert effects == [Open("log", "containers", "id-db", "db", 1)]
    assert screen(state).startswith("log db  lines 0-0 of 0  (loading)")
    state = model.add_lines(state, 1, [f"line {at}" for at in range(100)])
    assert screen(state).splitlines()[0] == "log db  lines 93-100 of 100"
    state, _ = typed(state, "pageup", "up")
    state = model.add_lines(state, 1, ["more"])
    assert screen(state).splitlines()[:2] == ["log db  lines 84-91 of 101", "line 83"]
    state, _ = typed(state, "end")
    state = model.end_text(model.add_lines(state, 1, ["last"]), 1, "end of the log")
    assert screen(state).splitlines()[0] == "log db  lines 95-102 of 102  (end of the log)"
    assert screen(typed(state, "home")[0]).splitlines()[1] == "line 0"
    state, effects = typed(state, "q")
    assert (state.mode, effects) == ("list", [Close(), Refresh()])
    assert model.add_lines(state, 1, ["late"]) is state and model.end_text(state, 1, "") is state
    again, effects = typed(state, "l")
    assert effects == [Open("log", "containers", "id-db", "db", 2)]
    assert model.add_lines(again, 1, ["late"]) is again


def test_long_log_keeps_its_last_lines() -> None:
    state, _ = typed(started(40, 10), "l")
    state = model.add_lines(state, 1, ["x" * 50] * (model.LINES + 10))
    assert state.text and len(state.text.lines) == model.LINES
    assert f"of {2 * model.LINES}" in screen(state)  # each line takes two lines of the screen


@pytest.mark.parametrize(("key", "what"), [("i", "inspect"), ("enter", "inspect"), ("x", "explain")])
def test_key_opens_the_inspect_or_explain_text_of_the_selected_row(key: str, what: str) -> None:
    state, effects = typed(started(80, 5), key)
    assert effects == [Open(what, "containers", "id-db", "db", 1)]
    state = model.end_text(model.add_lines(state, 1, ["a", "b", "c", "d"]), 1, "")
    assert screen(state).splitlines()[:4] == [f"{what} db  lines 1-3 of 4", "a", "b", "c"]
    assert screen(typed(state, "down")[0]).splitlines()[1] == "b"


def test_keys_for_container_actions_do_nothing_on_other_pages() -> None:
    state, _ = typed(started(), "5")
    state = model.listed(state, "cache", [{"ID": "abc"}])
    for key in "lesSrpdx":
        assert typed(state, key) == (state, [])
    assert typed(state, "i")[1] == [Open("inspect", "cache", "abc", "abc", 1)]


def test_keys_without_a_row_do_nothing() -> None:
    state = started(items=[])
    for key in ("l", "e", "d", "s", "enter", "up", "end", "pagedown", "\x00", "unknown"):
        assert typed(state, key)[1] == []


def test_help_text_explains_every_key_and_can_be_scrolled() -> None:
    state, _ = typed(started(80, 10), "?")
    assert screen(state).startswith("Keys of orlop top\nMove\n")
    seen = screen(state)
    for _ in range(10):
        state, _ = typed(state, "pagedown")
        seen += screen(state)
    assert all(line in seen for line in keys.HELP)
    assert all(len(line) <= 80 for line in keys.HELP)
    for key, *_ in keys.ACTIONS:
        assert f"\n  {key:<24}" in seen
    assert typed(state, "q")[0].mode == "list"


def test_ctrl_l_redraws_the_screen_and_q_quits() -> None:
    assert typed(started(), "ctrl-l")[1] == [Redraw()]
    assert typed(started(), "q")[1] == [Quit()]


def test_every_key_of_the_view_can_be_produced_by_a_terminal() -> None:
    assert {*loop._KEYS.values(), *loop._CHARACTERS.values()} == keys.NAMES
    assert rows.PAGES.keys() == rows.COLUMNS.keys()
    for columns in rows.COLUMNS.values():
        assert columns[0].rank == 0 and len({column.rank for column in columns}) == len(columns)
