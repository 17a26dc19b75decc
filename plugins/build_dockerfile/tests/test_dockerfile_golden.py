"""Dockerfiles, and the expected graphs, images and errors: `dockerfiles/*.txt`.

A case is "==== NAME", then parts: "---- Dockerfile", "---- options" (a line each), "---- file PATH", "---- result". With
ORLOP_RECORD=1 in the environment, the results are recorded again; review the difference.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest
from dockerfile_build import Converted, DockerfileError, Outside, Request, config, graph, image, names, run

HERE = Path(__file__).parent / "dockerfiles"
IMAGES = {
    "docker.io/library/triggers:latest": image(OnBuild=["COPY . /src", "RUN build"]),
    "docker.io/library/settled:latest": image(
        User="app", WorkingDir="/srv", Env=["PATH=/usr/bin", "MODE=a"], Entrypoint=["/e"], Labels={"l": "1"}
    ),
    "docker.io/library/arm:latest": {**image(), "architecture": "arm64", "variant": "v8"},
    "docker.io/library/empty:latest": {**image(), "rootfs": {"type": "layers"}, "history": []},
}


class Case(NamedTuple):
    name: str
    dockerfile: str
    options: dict[str, str]
    files: dict[str, str]
    expected: str


def _cases(path: Path) -> list[Case]:
    cases = []
    for text in re.split(r"^==== ", path.read_text(), flags=re.MULTILINE)[1:]:
        name, _, body = text.partition("\n")
        parts: dict[str, str] = {}
        for part in re.split(r"^---- ", body, flags=re.MULTILINE)[1:]:
            title, _, content = part.partition("\n")
            parts[title] = content
        options = dict(line.split("=", 1) for line in parts.get("options", "").splitlines())
        files = {title.removeprefix("file "): content for title, content in parts.items() if title.startswith("file ")}
        cases.append(Case(name, parts["Dockerfile"], options, files, parts.get("result", "")))
    return cases


def _result(case: Case) -> str:
    outside = Outside({"Dockerfile": case.dockerfile, **case.files}, IMAGES)
    try:
        converted = run(Request(options=case.options, platforms=("linux/amd64", "linux/arm64")), outside)
    except DockerfileError as error:
        lines = sorted({item.start.line for item in error.ranges})
        return f"error: {error.message}\nlines: {lines}\n"
    if not isinstance(converted, Converted):
        return f"frontend: {converted.image} {converted.options.get('cmdline')}\n"
    return "".join(_shown(converted, number) for number in range(len(converted.results)))


def _shown(converted: Converted, number: int) -> str:
    result = converted.results[number]
    value = json.loads(result.config)
    out = [f"platform: {result.platform} {value['os']}/{value['architecture']}"]
    for line, name in zip(graph(converted, number).splitlines(), names(converted, number), strict=True):
        out += [line, f"    {name}"]
    out.append("config: " + json.dumps(value["config"], sort_keys=True))
    for entry in value.get("history", []):
        out.append(("layer: " if not entry.get("empty_layer") else "empty: ") + json.dumps(entry["created_by"]))
    out += [f"warning: {warning.short}" for warning in converted.warnings]
    return re.sub(r"@sha256:[0-9a-f]{64}", "@DIGEST", "\n".join(out)) + "\n"


ALL = [(path, case) for path in sorted(HERE.glob("*.txt")) for case in _cases(path)]


@pytest.mark.parametrize(("path", "case"), ALL, ids=[f"{path.stem}-{case.name}" for path, case in ALL])
def test_conversion_matches_the_recorded_result(path: Path, case: Case) -> None:
    found = _result(case)
    if os.environ.get("ORLOP_RECORD"):
        text = path.read_text()
        at = text.index(f"==== {case.name}\n")
        end = text.find("\n==== ", at) + 1 or len(text)
        body = text[at:end].partition("---- result\n")[0]
        path.write_text(f"{text[:at]}{body}---- result\n{found}{text[end:]}")
    else:
        assert found == case.expected


def test_number_of_recorded_cases_does_not_shrink() -> None:
    assert len(ALL) > 200
    assert config  # used by other tests of this directory
