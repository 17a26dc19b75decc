"""Fields of the Engine API's answers: the fields in Docker's description (swagger), and the fields of an actual answer.

`python -m tests.integration.api_fields DESCRIPTION.yaml > tests/integration/engine-api-1.55.fields` writes the fields of all
routes in `ROUTES`, one in each line. A field is a path of keys; "[]" is every entry of a list, "{}" every value of a map.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "ROUTES", "described", "of_answer", "recorded"]

FIELDS = Path(__file__).parent / "engine-api-1.55.fields"
ROUTES = (
    "GET /containers/json",
    "GET /containers/{id}/json",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/stats",
    "GET /containers/{id}/top",
    "GET /distribution/{name}/json",
    "GET /events",
    "GET /exec/{id}/json",
    "GET /images/json",
    "GET /images/{name}/attestations",
    "GET /images/{name}/history",
    "GET /images/{name}/json",
    "GET /info",
    "GET /networks",
    "GET /networks/{id}",
    "GET /system/df",
    "GET /version",
    "GET /volumes",
    "GET /volumes/{name}",
    "POST /containers/create",
    "POST /containers/prune",
    "POST /containers/{id}/update",
    "POST /containers/{id}/wait",
    "POST /images/prune",
    "POST /networks/create",
    "POST /networks/prune",
    "POST /volumes/create",
    "POST /volumes/prune",
)


def described(description: Mapping[str, Any], route: str) -> list[str]:
    """The fields of the route's answer in Docker's description, sorted."""
    method, path = route.split()
    responses = description["paths"][path][method.lower()]["responses"]
    schema = next(responses[code]["schema"] for code in responses if str(code) in ("200", "201"))
    return sorted(set(_of_schema(description, schema, "", ())))


def _of_schema(
    description: Mapping[str, Any], schema: Mapping[str, Any], path: str, inside: tuple[str, ...]
) -> Iterator[str]:
    if name := schema.get("$ref", "").rpartition("/")[2]:
        if name not in inside:
            yield from _of_schema(description, description["definitions"][name], path, (*inside, name))
        return
    for part in schema.get("allOf", ()):
        yield from _of_schema(description, part, path, inside)
    if "items" in schema:
        yield from _of_schema(description, schema["items"], f"{path}[]", inside)
    if isinstance(more := schema.get("additionalProperties"), dict):
        yield from _of_schema(description, more, f"{path}{{}}", inside)
    for key, value in schema.get("properties", {}).items():
        below = f"{path}.{key}".removeprefix(".")
        yield below
        yield from _of_schema(description, value, below, inside)


def recorded() -> dict[str, list[str]]:
    """The fields by route, as they are in the file."""
    found: dict[str, list[str]] = {}
    for line in FIELDS.read_text().splitlines():
        if line.startswith(("GET ", "POST ")):
            fields = found.setdefault(line, [])
        elif line and not line.startswith("#"):
            fields.append(line)
    return found


def of_answer(answer: Any, known: frozenset[str], path: str = "") -> Iterator[str]:
    """The fields of an answer. `known` are the fields in the description; they show whether a JSON object is a map."""
    if isinstance(answer, list):
        for each in answer:
            yield from of_answer(each, known, f"{path}[]")
    elif isinstance(answer, dict):
        is_map = any(one.startswith(f"{path}{{}}") for one in known)
        free = not is_map and not any(one.startswith(f"{path}.".removeprefix(".")) for one in known)
        for key, value in answer.items():
            if is_map:
                yield from of_answer(value, known, f"{path}{{}}")
            elif not free:  # a map of strings has no fields of its own
                below = f"{path}.{key}".removeprefix(".")
                yield below
                yield from of_answer(value, known, below)


def main() -> None:
    import yaml  # type: ignore[import-untyped]  # of the development environment

    with open(sys.argv[1]) as file:
        description = yaml.load(file, yaml.CSafeLoader)
    print("# Fields of the answers of the Engine API 1.55, from Docker's description (Apache License 2.0).")
    print("# Written by `python -m tests.integration.api_fields`; see there.")
    for route in ROUTES:
        print(f"\n{route}", *described(description, route), sep="\n")


if __name__ == "__main__":
    main()
