"""Hints after errors: similar names for names that do not exist, the holders of ports, and the next command. Imported only
after an error."""

from __future__ import annotations

import re
from difflib import get_close_matches

from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable

    from orlop_cli.daemon.client import Engine

__all__ = ["image_hint", "name_hint", "near", "next_command"]

_MISSING = re.compile(
    r"[Nn]o such (container|image|object|volume|network): (\S+)|(network) (\S+) not found|get (\S+): no such (volume)"
)
_IN_USE = re.compile(r"remove (\S+): (volume) is in use|(network) (\S+) has active endpoints")
_PREDEFINED = ("bridge", "host", "none")  # short words: other names are similar to them by chance
_ID = re.compile(r"(sha256:)?[0-9a-f]{12,64}")  # an ID that is similar to another one is not a typing error


def near(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The question after an error, on a line of its own; "" if no known name is similar."""
    found = get_close_matches(name, sorted(set(known)), 1, 0.7)
    return f"\nDid you mean '{prefix}{found[0]}'?" if found else ""


def name_hint(error: CliError) -> str:
    """The question `Did you mean ...?`, for an error about an object that does not exist. "" if no similar name exists, or
    if the daemon does not answer."""
    match = _MISSING.search(error.message)
    if match is None or error.source is None:
        return ""
    kind, name = match[1] or match[3] or match[6], match[2] or match[4] or match[5]
    engine = error.source.fork()
    try:
        return "" if _ID.fullmatch(name) else near(_plain(kind, name), _names(engine, kind, name))
    except (CliError, OSError, LookupError, TypeError):
        return ""  # the error of the command is printed without a question
    finally:
        engine.close()


def next_command(error: CliError) -> str:
    """A line with the command that shows why an object or a port cannot be used; "" if there is none."""
    if used := _IN_USE.search(error.message):
        kind, name = used[2] or used[3], used[1] or used[4]
        return f"\nTo see the containers that use it: orlop explain --type {kind} {name}"
    if error.source is None or "port" not in error.message:
        return ""
    from orlop_cli.explain import codes

    held = codes.held_port(error.message.partition(" (port ")[0])  # what follows contains the name that a program has chosen
    engine = error.source.fork()
    try:
        return _holder(engine, *held, named="is held by" in error.message) if held else ""
    except (CliError, OSError, LookupError, TypeError):
        return ""
    finally:
        engine.close()


def _holder(engine: Engine, port: int, protocol: str, named: bool) -> str:
    """What uses the port, unless the daemon has `named` it, and the next command."""
    from orlop_cli.explain import gather, ports

    everything = gather.containers(engine)
    for one in everything:
        if any(used.get("PublicPort") == port and used.get("Type") == protocol for used in one.get("Ports") or []):
            name = one["Names"][0].removeprefix("/")
            return ("" if named else f"\nport {port} is held by container {name}") + f"\nTo free the port: orlop stop {name}"
    names = {one["Id"]: one["Names"][0].removeprefix("/") for one in everything}
    for holder in gather.port_holders(engine, port, protocol):
        after = f"\nTo see the process: ps -fp {holder.pid}" if holder.pid else ""
        return ("" if named else f"\nport {port} is held by {ports.words(holder, names)}") + after
    return ""


def image_hint(engine: Engine, name: str) -> str:
    """The question for an image that can be neither found nor pulled."""
    error = CliError(f"No such image: {name}")
    error.source = engine
    return name_hint(error)


def _plain(kind: str, name: str) -> str:
    """The name without the tag that an error adds."""
    return name.removesuffix(":latest") if kind == "image" else name


def _names(engine: Engine, kind: str, name: str) -> list[str]:
    found: list[str] = []
    if kind in ("container", "object"):
        for one in engine.get("/containers/json", {"all": 1}):
            found += [each.removeprefix("/") for each in one["Names"]]
    if kind in ("image", "object"):
        for one in engine.get("/images/json"):
            found += [tag.removesuffix(":latest") for tag in one.get("RepoTags") or []]
    if kind in ("network", "object"):
        found += [one["Name"] for one in engine.get("/networks") if one["Name"] not in _PREDEFINED]
    if kind in ("volume", "object"):
        found += [one["Name"] for one in engine.get("/volumes").get("Volumes") or []]
    return [one for one in found if one != name]
