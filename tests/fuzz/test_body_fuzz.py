"""Random JSON bodies: keys match regardless of case, and duplicate keys are refused. For a comparison with a real dockerd
see tests/integration/test_body_fuzz.py."""

from __future__ import annotations

import json
import random

import pytest

from orlop_api_docker.decode import decode_json
from orlop_engine.types.containers import CreateRequest
from orlop_sdk.errors import InvalidParameter

MEMBERS: dict[str, object] = {
    "Hostname": "a",
    "Tty": True,
    "Env": ["A=b"],
    "Labels": {"a": "b", "A": "c"},
    "ExposedPorts": {"80/tcp": {}},
    "StopTimeout": 5,
    "Entrypoint": "sh",
    "Healthcheck": {"Test": ["NONE"]},
    "HostConfig": {"Binds": ["/a:/b"], "Memory": 9, "RestartPolicy": {"Name": "always"}, "Mounts": [{"Type": "tmpfs"}]},
}


def spelt(name: str, chance: random.Random) -> str:
    """The name in JSON, in a random spelling that Go accepts for this member."""
    fold = {"s": "\u017f", "k": "\u212a"}
    letters = [chance.choice([letter.lower(), letter.upper(), fold.get(letter, letter)]) for letter in name]
    return "".join(f"\\u{ord(letter):04x}" if chance.random() < 0.2 else letter for letter in letters)


def text(value: object, chance: random.Random, twice: str = "") -> str:
    """JSON with members in random order and case; the member `twice` is repeated in another spelling."""
    if isinstance(value, list):
        return f"[{','.join(text(each, chance, twice) for each in value)}]"
    if not isinstance(value, dict):
        return json.dumps(value)
    is_map = not all(name[0].isupper() and len(name) > 1 for name in value)
    pairs = [
        (json.dumps(name) if is_map else f'"{spelt(name, chance)}"') + f":{text(each, chance, twice)}"
        for name, each in value.items()
        for _ in range(2 if name == twice else 1)
    ]
    chance.shuffle(pairs)
    return "{" + ",".join(pairs) + "}"


@pytest.mark.parametrize("seed", range(50))
def test_json_key_in_any_case_that_go_accepts_is_recognized(seed: int) -> None:
    chance = random.Random(seed)
    body = {name: MEMBERS[name] for name in chance.sample([*MEMBERS], 5)}
    assert decode_json(text(body, chance).encode(), CreateRequest) == decode_json(json.dumps(body).encode(), CreateRequest)


@pytest.mark.parametrize("name", [*MEMBERS, "Binds", "Memory", "Name", "Type"])
@pytest.mark.parametrize("seed", range(5))
def test_duplicate_json_key_is_refused(seed: int, name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid JSON: duplicate key "):
        decode_json(text(MEMBERS, random.Random(seed), twice=name).encode(), CreateRequest)
