"""Values of single flags: key=value lists and their files, ulimits, rates, comma-separated fields."""

from __future__ import annotations

import os

from orlop_cli._errors import UsageProblem
from orlop_cli.values.units import parse_bytes

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TypeVar

    Value = TypeVar("Value")


def bad(message: str) -> UsageProblem:
    """The error for an invalid value. As in Docker, the exit code is 125 for every error of `run` before the container
    runs."""
    return UsageProblem(message, 125)


def parsed(flag: str, text: str, parse: Callable[[str], Value]) -> Value:
    """Parse the value of a flag. As in Docker, the error names the flag."""
    try:
        return parse(text)
    except UsageProblem as error:
        raise bad(f'invalid argument "{text}" for "{flag}" flag: {error.message}') from None


def csv_fields(text: str) -> list[str]:
    """Split a record of RFC 4180, the format of --mount and --network. A quoted field may contain a comma."""
    import csv

    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise bad(f"invalid field list {text!r}: {error}") from None
    return rows[0] if rows else []


def pairs(items: Iterable[str]) -> dict[str, str]:
    """Parse `key=value` and `key` (empty value). If a key is repeated, the last value wins."""
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def strict_pairs(items: Iterable[str], what: str) -> dict[str, str]:
    """Parse `key=value`. Raises UsageProblem for a key without a value."""
    for item in items:
        if "=" not in item:
            raise bad(f"invalid {what} '{item}': expected key=value")
    return pairs(items)


def environment(files: Sequence[str], given: Sequence[str], ours: Mapping[str, str] | None = None) -> list[str]:
    """The variables in the files of --env-file, and then of -e. A KEY without "=" gets its value from the client's
    environment. If the client has no such variable, the KEY is omitted."""
    ours = os.environ if ours is None else ours
    out: list[str] = []
    for item in [*(line for path in files for line in file_lines(path)), *given]:
        key, equals, _ = item.partition("=")
        if not key:
            raise bad(f'invalid argument "{item}" for "-e, --env" flag: invalid environment variable: {item}')
        if equals:
            out.append(item)
        elif key in ours:
            out.append(f"{key}={ours[key]}")
    return out


def labels(files: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """The labels in the files of --label-file, and then of -l."""
    found = pairs([*(line for path in files for line in file_lines(path)), *given])
    if "" in found:
        item = next(item for item in given if item.startswith("="))  # file_lines() refuses lines without a name
        raise bad(f'invalid argument "{item}" for "-l, --label" flag: invalid label \'{item}\': empty name')
    return found


def file_lines(path: str) -> list[str]:
    """The lines of an env or label file. Blank lines, comments and spaces before a key are removed. A space after a key is
    an error."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except OSError as error:
        raise bad(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except UnicodeDecodeError:
        raise bad(f"invalid file {path}: not UTF-8") from None
    found: list[str] = []
    for line in text.split("\n"):  # splitlines() is not used, because it also splits at form feeds, which values may contain
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        key = line.partition("=")[0]
        if not key:
            raise bad(f"invalid file {path}: no variable name on line '{line}'")
        if any(char.isspace() for char in key):
            raise bad(f"invalid file {path}: variable '{key}' contains whitespaces")
        found.append(line)
    return found


def ulimits(items: Iterable[str]) -> list[dict[str, Any]]:
    """Parse ulimits such as `nofile=1024:2048` and `nofile=1024`."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        one = parsed("--ulimit", item, _ulimit)
        found[one["Name"]] = one
    return [found[name] for name in sorted(found)]


def _ulimit(item: str) -> dict[str, Any]:
    name, equals, value = item.partition("=")
    soft, colon, hard = value.partition(":")
    try:
        low = int(soft)
        high = int(hard) if colon else low
    except ValueError:
        raise bad(f"invalid ulimit argument: {item}") from None
    if not equals or not name:
        raise bad(f"invalid ulimit argument: {item}")
    if high != -1 and (low > high or low == -1):
        raise bad(f"ulimit soft limit must be less than or equal to hard limit: {low} > {high}")
    return {"Name": name, "Soft": low, "Hard": high}


def rates(items: Iterable[str], sizes: bool) -> list[dict[str, Any]]:
    """Parse rates such as `/dev/sda:1mb` (with `sizes`) or `/dev/sda:1000`."""
    found = []
    for item in items:
        path, colon, value = item.partition(":")
        if not colon or not path.startswith("/dev/"):
            raise bad(f"invalid device path and rate: {item}: the format is /dev/<device>:<number>")
        try:
            found.append({"Path": path, "Rate": parse_bytes(value) if sizes else int(value)})
        except ValueError:
            raise bad(f"invalid rate for device: {item}") from None
    return found


def weights(items: Iterable[str]) -> list[dict[str, Any]]:
    """Parse weights such as `/dev/sda:200`."""
    found = []
    for item in items:
        path, colon, value = item.partition(":")
        if (
            not colon
            or not path.startswith("/dev/")
            or not value.isdigit()
            or not (int(value) == 0 or 10 <= int(value) <= 1000)
        ):
            raise bad(f"invalid weight for device: {item}")
        found.append({"Path": path, "Weight": int(value)})
    return found
