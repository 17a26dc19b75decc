"""Unusual bodies of `POST /containers/create`, sent to a real dockerd and to orlopd: other case, duplicates, letters that
fold in Unicode, wrong types, null, extreme numbers, truncated text. Status and resulting members must be the same, except
for the differences that `is_right` lists. The seed is fixed, so failures can be reproduced. (`Ulimits` are left out: after
`[null]`, dockerd's inspect fails with a nil pointer.)"""

from __future__ import annotations

import json
import random
import shutil
from typing import Any

import pytest
from tests.integration.parity import Side, both

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

CASES = 250
VALUES = (
    'null true false 0 1 -1 1.0 1e3 9223372036854775807 9223372036854775808 -9223372036854775809 1e400 "" "a" "1" '
    '"\\u00e9" "\\ud83d\\ude00" '
    '[] {} ["a"] [null] ["a",null] [1] [[]] {"a":"b"} {"a":null} {"a":1} {"A":"x","a":"y"} {"a":{}}'
).split()
CONFIG = {
    "Hostname": "string",
    "Tty": "bool",
    "Env": "list",
    "Labels": "map",
    "ExposedPorts": "map",
    "Volumes": "map",
    "StopTimeout": "int",
    "Entrypoint": "words",
    "Domainname": "string",
    "OpenStdin": "bool",
}
HOST = {
    "Memory": "int",
    "Binds": "list",
    "Tmpfs": "map",
    "PortBindings": "map",
    "RestartPolicy": "struct",
    "LogConfig": "struct",
    "OomScoreAdj": "int",
    "ExtraHosts": "list",
    "CapAdd": "words",
    "ShmSize": "int",
    "AutoRemove": "bool",
    "PidsLimit": "int",
}
Effect = tuple[int, Any, str]


def is_right(theirs: Effect, ours: Effect) -> bool:
    """Whether the answers are equal, or differ deliberately."""
    if ours[0] == 400 and "duplicate key" in ours[2]:  # docs/decisions/0012: dockerd uses the last of duplicate keys
        return True
    # Invalid requests get a 400 here; dockerd answers 500 if one of its own parsers failed
    return (theirs[0], ours[0]) == (500, 400)


def spelt(name: str, chance: random.Random) -> str:
    """A random spelling of a member that Go accepts."""
    how = chance.randrange(6)
    if how == 0:
        return name.lower()
    if how == 1:
        return name.upper()
    if how == 2:
        return name.replace("s", "\u017f").replace("k", "\u212a")
    return f"\\u{ord(name[0]):04x}{name[1:]}" if how == 3 else name


def body(chance: random.Random) -> tuple[str, list[str]]:
    """Returns the body, and the members that the body sets."""
    config, host = [f'"Image":"{IMAGE}"', '"Cmd":["true"]'], []
    names = chance.sample([*CONFIG, *HOST], chance.randrange(1, 3))
    for name in names:
        times = 2 if chance.random() < 0.15 else 1
        for _ in range(times):
            (config if name in CONFIG else host).append(f'"{spelt(name, chance)}":{chance.choice(VALUES)}')
    chance.shuffle(config)
    text = ",".join([*config, f'"{spelt("HostConfig", chance)}":{{{",".join(host)}}}'])
    wrapped = "{" + text + "}"
    odd = chance.random()
    if odd < 0.03:
        wrapped += chance.choice([" ", "\n", "{}", "x", "null"])
    elif odd < 0.06:
        wrapped = chance.choice(["\ufeff", " ", ""]) + wrapped[: chance.randrange(len(wrapped))]
    return wrapped, names


IMAGE = "busybox:latest"


def effect(side: Side, text: str, names: list[str]) -> Effect:
    """The status, the members as inspect shows them, and the message."""
    status, raw = side.raw("POST", "/containers/create", text.encode())[:2]
    answer = json.loads(raw)
    if status != 201:
        return status, None, answer["message"]
    shown = json.loads(side.raw("GET", f"/containers/{answer['Id']}/json")[1])
    side.raw("DELETE", f"/containers/{answer['Id']}?force=1&v=1")
    if shown["Config"]["Hostname"] == answer["Id"][:12]:
        shown["Config"]["Hostname"] = "ID"
    return status, {name: (shown["HostConfig"] if name in HOST else shown["Config"]).get(name) for name in names}, ""


def test_random_bodies_have_the_same_effect_as_in_dockerd(sides: tuple[Side, Side]) -> None:
    chance = random.Random(20261128)
    wrong = []
    for _ in range(CASES):
        text, names = body(chance)
        theirs, ours = both(sides, lambda side, text=text, names=names: effect(side, text, names))  # type: ignore[misc]
        if theirs[:2] != ours[:2] and not is_right(theirs, ours):
            wrong.append(f"{text}\n  dockerd {theirs}\n  orlopd {ours}")
    assert not wrong, "\n".join(wrong)
