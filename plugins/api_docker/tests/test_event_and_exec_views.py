"""JSON of events and execs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

from orlop_api_docker.wire.events import encode_event
from orlop_api_docker.wire.execs import exec_view
from orlop_engine.containers.exec_state import ExecState
from orlop_engine.types.containers import ExecConfig
from orlop_kernel.events import Event


def test_event_fields_change_with_api_1_52() -> None:
    happened = Event("container", "start", "c0ffee", {"image": "alpine", "name": "web"}, 1_700_000_000_123_456_789)
    expected = {
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "c0ffee", "Attributes": {"image": "alpine", "name": "web"}},
        "scope": "local",
        "time": 1_700_000_000,
        "timeNano": 1_700_000_000_123_456_789,
    }
    assert json.loads(encode_event(happened, legacy=False)) == expected
    assert json.loads(encode_event(happened, legacy=True)) == {
        "status": "start",
        "id": "c0ffee",
        "from": "alpine",
        **expected,
    }
    assert "status" not in json.loads(encode_event(Event("network", "create", "n", {}, 1), legacy=True))


def test_inspect_answer_describes_an_exec() -> None:
    config = ExecConfig(cmd=["sh", "-c", "x"], privileged=True, user="1", detach_keys="a,b")
    state = ExecState("e", cast("Any", SimpleNamespace(id="c")), config, ["sh", "-c", "x"], b"ab", pid=78)
    found = exec_view(state, can_remove=False)
    assert found["DetachKeys"] == "YWI="  # bytes, which Go encodes as base64 in JSON
    assert found["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "sh",
        "arguments": ["-c", "x"],
        "privileged": True,
        "user": "1",
    }
    assert (found["ContainerID"], found["Pid"], found["ExitCode"], found["CanRemove"]) == ("c", 78, None, False)
    config.user, config.detach_keys = "", ""
    found = exec_view(state, can_remove=True)
    assert "user" not in found["ProcessConfig"] and found["DetachKeys"] == "" and found["CanRemove"]
