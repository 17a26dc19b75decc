"""Compares orlopd with a real dockerd: the same containers must look the same to a client (see `parity`)."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
import time
import urllib.parse
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, archive, until
from tests.integration.parity import API, CONTAINERS, SLEEP, Side, both, in_order, unexpected

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]


@pytest.mark.parametrize("version", ["/v1.45", "/v1.43"])
def test_inspect_shows_the_same_as_dockerd_in_every_api_version(sides: tuple[Side, Side], version: str) -> None:
    wrong: list[str] = []
    for name, *_ in CONTAINERS:
        shown = []
        for side in sides:
            status, found = side.api("GET", f"/containers/{name}/json?size=1", version=version)
            assert status == 200
            shown.append(in_order(side.plain(found)))
        wrong += unexpected(name, *shown)
    assert not wrong, "\n".join(wrong)


def test_container_list_is_the_same_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    shown = []
    for side in sides:
        items = side.api("GET", "/containers/json?all=1&size=1")[1]
        for item in items:
            item["Status"] = re.sub(r"Less than a second|\d+ seconds?|About a minute", "N", item["Status"])
        shown.append({side.plain(item)["Id"]: in_order(side.plain(item)) for item in items})
    assert shown[0].keys() == shown[1].keys()
    wrong = [text for name in shown[0] for text in unexpected(name.strip("<>"), shown[0][name], shown[1][name])]
    assert not wrong, "\n".join(wrong)


FILTERS: list[dict[str, list[str]]] = [
    {"id": ["0" * 64]},
    {"id": ["["]},
    {"name": ["pl"]},
    {"name": ["/plain$"]},
    {"name": ["^p"]},
    {"name": ["["]},
    {"name": ["plain", "two$"]},
    {"label": ["a"]},
    {"label": ["a=b", "c"]},
    {"label": ["a=x"]},
    *({"status": [word]} for word in ("created", "restarting", "running", "removing", "paused", "exited", "dead", "up")),
    {"status": ["running", "exited"]},
    {"status": []},
    {"exited": ["3"]},
    {"ancestor": ["busybox"]},
    {"ancestor": ["nosuch"]},
    {"ancestor": ["nosuch", "busybox:latest"]},
    {"before": ["ports"]},
    {"since": ["ports"]},
    {"before": ["two"], "since": ["ports"]},
    {"before": ["nosuch"]},
    {"volume": ["parity"]},
    {"volume": ["/bound"]},
    {"volume": ["/usr/share"]},
    {"volume": ["/t"]},
    {"network": ["parity-net"]},
    {"network": ["bridge"]},
    {"network": ["none"]},
    {"network": ["nosuch"]},
    {"publish": ["80"]},
    {"expose": ["80"]},
    {"expose": ["79-95"]},
    {"expose": ["81/udp"]},
    {"publish": ["1-65535/udp"], "expose": ["90"]},
    {"health": ["healthy"]},
    {"health": ["none"]},
    {"health": ["bogus"]},
    {"is-task": ["true"]},
    {"is-task": ["0"]},
    {"is-task": ["x"]},
    {"isolation": ["default"]},
    {"bogus": ["1"]},
]


def test_filters_select_the_same_containers_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    """Filters of a list, with and without `all`, and with a limit."""
    wrong = []
    for filters in FILTERS:
        text = urllib.parse.quote(json.dumps({key: dict.fromkeys(values, True) for key, values in filters.items()}))
        for more in ("", "all=1&", "limit=2&"):
            answers = []
            for side in sides:
                status, found = side.api("GET", f"/containers/json?{more}filters={text}")
                names = [next(n for n in item["Names"] if n.count("/") == 1) for item in found] if status == 200 else found
                answers.append((status, names))
            if answers[0] != answers[1]:
                wrong.append(f"{more}{filters}: dockerd {answers[0]}, orlopd {answers[1]}")
    assert not wrong, "\n".join(wrong)


def test_names_and_id_prefixes_find_the_same_containers_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    for side in sides:
        ident = next(key for key, name in side.names.items() if name == "<plain>")
        for text in (ident, ident[:7], "plain", "linked/db"):
            assert side.inspect(text)["Id"] == ident, (side.name, text)
        found = side.api("GET", f"/containers/json?filters={urllib.parse.quote(json.dumps({'id': [ident[:9]]}))}")[1]
        assert [item["Id"] for item in found] == [ident], side.name


ENDINGS: list[tuple[str, str, Any]] = [
    *(
        ("GET", path, None)
        for path in (
            "/_ping",
            "/version",
            "/info",
            "/system/df",
            "/events?since=1&until=2",
            "/containers/json?all=1",
            "/containers/plain/json",
            "/containers/plain/top",
            "/containers/plain/changes",
            "/containers/plain/stats?stream=0",
            "/containers/plain/stats?stream=0&one-shot=1",
            "/containers/exited/stats?stream=0",
            "/containers/nosuch/json",
            "/images/json",
            f"/images/{BUSYBOX}/json",
            f"/images/{BUSYBOX}/history",
            "/volumes",
            "/volumes/parity",
            "/networks",
            "/networks/bridge",
            "/nosuch",
        )
    ),
    ("POST", "/containers/exited/wait", None),
    ("POST", "/containers/created/update", {"CpuShares": 512}),
    ("POST", "/containers/created/exec", {"Cmd": ["true"]}),
    ("POST", "/containers/plain/exec", {"Cmd": ["true"]}),
    ("POST", "/containers/plain/start", None),
    ("POST", "/volumes/create", {"Name": "parity"}),
    ("POST", "/volumes/prune?filters=%7B%22label%22%3A%5B%22none%22%5D%7D", None),
    ("POST", "/networks/create", {"Name": "bridge"}),
    ("POST", "/images/load", archive()),
    ("POST", "/images/load", b"no archive"),
    ("POST", "/images/create?fromSrc=-&repo=parity", b""),
    ("POST", f"/images/{BUSYBOX}/tag?repo=parity&tag=one", None),
    ("DELETE", "/images/parity:one", None),
]


def test_json_answers_end_with_the_same_white_space_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    """Some clients read answers line by line, and fail at an empty line."""
    wrong = []
    for method, path, body in ENDINGS:
        answers = []
        for side in sides:
            status, data = side.raw(method, API + path, body)
            answers.append((status, data[len(data.rstrip()) :], data[:1]))
        if answers[0] != answers[1]:
            wrong.append(f"{method} {path}: dockerd {answers[0]}, orlopd {answers[1]}")
    assert not wrong, "\n".join(wrong)


def session(side: Side) -> list[str]:
    """Run a container through its life. Returns the events."""
    began = time.time()
    config = {"Labels": {"k": "v"}}
    side.create("ev", SLEEP, config, {}, True)
    _, made = side.api("POST", "/containers/ev/exec", {"Cmd": ["sh", "-c", "exit 3"]})
    side.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    until(lambda: not side.api("GET", f"/exec/{made['Id']}/json")[1]["Running"], f"the exec's end on {side.name}")
    for verb in ("pause", "unpause", "rename?name=ew", "rename?name=ev"):
        name = "ew" if verb.endswith("ev") else "ev"
        assert side.api("POST", f"/containers/{name}/{verb}")[0] == 204
    side.api("POST", "/containers/ev/kill?signal=URG")
    side.api("POST", "/containers/ev/update", {"Memory": 64 << 20, "MemorySwap": 64 << 20})
    side.api("GET", "/containers/ev/top")
    side.api("POST", "/containers/ev/resize?h=10&w=20")
    side.raw("GET", f"{API}/containers/ev/export")
    side.raw("GET", f"{API}/containers/ev/archive?path=/bin/sh")
    side.api("POST", "/commit?container=ev&repo=evimg&tag=1&comment=said")
    side.api("POST", "/networks/parity-net/connect", {"Container": "ev"})
    side.api("POST", "/networks/parity-net/disconnect", {"Container": "ev"})
    side.api("POST", "/containers/ev/restart?t=0")
    side.api("POST", "/containers/ev/kill")
    side.api("DELETE", "/containers/ev")
    side.create("ev", ["true"], config, {"Binds": ["evvol:/v"], "AutoRemove": True}, False)
    wait = threading.Thread(target=side.api, args=("POST", "/containers/ev/wait?condition=removed"))
    wait.start()
    side.api("POST", "/containers/ev/start")
    wait.join()
    side.api("DELETE", "/volumes/evvol")
    side.api("DELETE", "/images/evimg:1")
    side.api("POST", "/containers/prune?filters=%7B%22label%22%3A%5B%22nosuch%22%5D%7D")
    _, data = side.raw("GET", f"{API}/events?since={began:.9f}&until={time.time():.9f}")
    return [_event(side, json.loads(line)) for line in data.splitlines()]


def _event(side: Side, event: dict[str, Any]) -> str:
    attributes = {key: side.text(value) for key, value in sorted(event["Actor"]["Attributes"].items())}
    for key in ("execDuration", "reclaimed"):
        if key in attributes:
            attributes[key] = "N"
    if event["Action"] == "delete":
        attributes.pop("k", None)  # when an image is deleted, dockerd no longer knows its labels
    more = {key: side.text(event[key]) for key in ("status", "id", "from", "scope") if key in event}
    return f"{event['Type']} {event['Action']} {side.text(event['Actor']['ID'])} {json.dumps(attributes)} {json.dumps(more)}"


def test_events_are_the_same_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    """Compares the order, too. Docker emits `die` and `stop` from two goroutines, so these two may be swapped."""
    theirs, ours = both(sides, session)
    racing = re.compile(r"container (die|stop) ")
    assert sorted(filter(racing.match, ours)) == sorted(filter(racing.match, theirs))
    # dockerd emits some disconnects twice, and sometimes a pause and its unpause
    repeated = re.compile(r"container (un)?pause ")
    theirs = [
        line
        for number, line in enumerate(theirs)
        if not (repeated.match(line) and line in theirs[max(0, number - 2) : number])
    ]
    theirs, ours = ([line for line, _ in itertools.groupby(each) if not racing.match(line)] for each in (theirs, ours))
    assert ours == theirs
