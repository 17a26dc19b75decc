"""`registry-rules` of daemon.json: the repositories from which images may be pulled, and to which they may be pushed. This
module does no I/O.

The rules apply to names, not to mirrors, so they are checked before the first request.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from orlop_engine.config import RegistryRules
from orlop_sdk import Forbidden

from .listing import glob
from .references import Reference

__all__ = ["check_pull", "check_push", "problems"]

_PATTERN = re.compile(r"[a-z0-9*._:\[\]-]+(/[a-z0-9*._-]+)*")
_MOST_SHOWN = 5
_TLS_PORT = ":443"  # a name with this port means the same server as a name without a port


@lru_cache(maxsize=1024)
def _components(pattern: str) -> list[re.Pattern[str]]:
    host, *path = pattern.split("/")
    parts = [host.removesuffix(_TLS_PORT), *path]
    return [glob(part.replace("[", r"\[")) for part in parts]


def matches(pattern: str, reference: Reference) -> bool:
    """Whether the pattern matches the name of the repository, or the beginning of the name up to one of its slashes. `*`
    matches any characters except a slash."""
    name = [reference.domain.lower().removesuffix(_TLS_PORT), *reference.path.split("/")]
    wanted = _components(pattern)
    return len(wanted) <= len(name) and all(part.fullmatch(text) for part, text in zip(wanted, name, strict=False))


def _first(patterns: Sequence[str], reference: Reference) -> str | None:
    return next((pattern for pattern in patterns if matches(pattern, reference)), None)


def _check(allowed: Sequence[str] | None, reference: Reference, doing: str, key: str) -> None:
    if allowed is None or _first(allowed, reference) is not None:
        return
    rest = f" and {len(allowed) - _MOST_SHOWN} more" if len(allowed) > _MOST_SHOWN else ""
    only = f"only {', '.join(allowed[:_MOST_SHOWN])}{rest}" if allowed else "nothing"
    raise Forbidden(f"{doing} {reference.familiar} is not allowed: {key} of registry-rules in daemon.json allows {only}")


def check_pull(rules: RegistryRules, reference: Reference) -> None:
    """Raise `Forbidden`, with a message that names the rule, if the reference may not be pulled."""
    _check(rules.pull, reference, "pulling", '"pull"')
    rule = None if reference.digest else _first(rules.digest_only, reference)
    if rule is not None:
        raise Forbidden(
            f'pulling {reference.familiar} is not allowed: the rule "{rule}" in "digest-only" of registry-rules in '
            f"daemon.json allows it by digest only, as in {reference.familiar_name}@sha256:..."
        )


def check_push(rules: RegistryRules, reference: Reference) -> None:
    """Raise `Forbidden`, with a message that names the rule, if nothing may be pushed under this name."""
    _check(rules.push, reference, "pushing", '"push"')


def _wrong(pattern: str) -> str | None:
    if _PATTERN.fullmatch(pattern) is None:
        return 'a registry and a path in lower case are needed, as in "registry.example.com/team/*"'
    first = pattern.partition("/")[0]
    if not any(mark in first for mark in ".:*") and first != "localhost":
        return (
            f'it does not begin with a registry; for Docker Hub write "docker.io/library/{first}" or "docker.io/{pattern}"'
        )
    return None


def problems(rules: RegistryRules) -> Iterator[str]:
    """Yields a message for each invalid rule."""
    for key, patterns in (("pull", rules.pull), ("push", rules.push), ("digest-only", rules.digest_only)):
        for pattern in patterns or ():
            if why := _wrong(pattern):
                yield f'invalid rule "{pattern[:200]}" in "{key}" of registry-rules: {why}'
