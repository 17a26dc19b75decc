"""`GET /images/json`, and which images a prune takes: filters (daemon/images/image_list.go, image_prune.go). Sans-IO."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from orlop_kernel.spi import InvalidParameter, NotFound
from orlop_kernel.types import parse_rfc3339

from .catalog import Catalog
from .platforms import Platform, rank
from .records import Image, ImageUser, unix_time
from .references import Reference

__all__ = ["Filters", "boolean", "choose", "labels_match", "moment"]

Filters = Mapping[str, Collection[str]]
Users = Callable[[str], Sequence[ImageUser]]

LIST_FILTERS = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def check(filters: Filters, known: Collection[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def boolean(filters: Filters, name: str, default: bool) -> bool:
    """A filter that is true or false; all its values must say the same."""
    values = set(filters.get(name, ()))
    if not values:
        return default
    true, false = values <= {"1", "true"}, values <= {"0", "false"}
    if true == false:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")
    return true


def moment(text: str, now: float) -> float:
    """`until`: Unix seconds, an RFC 3339 date (parts may be missing), or a Go duration before now."""
    if re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        return float(text)
    pieces = _DURATION.findall(text)
    if pieces and "".join(number + unit for number, unit in pieces) == text:
        return now - sum(float(number) * _SECONDS[unit] for number, unit in pieces)
    for suffix in ("", "Z", ":00Z", ":00:00Z", "T00:00:00Z"):
        try:
            return parse_rfc3339(text + suffix) / 1e9
        except ValueError:
            continue
    raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')


def _until(filters: Filters, now: float) -> float | None:
    values = list(filters.get("until", ()))
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    return moment(values[0], now) if values else None


def labels_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """`label`: all must be there; `label!`: none may be."""
    have = labels or {}

    def has(wanted: str) -> bool:
        key, equals, value = wanted.partition("=")
        return key in have and (not equals or have[key] == value)

    return all(has(one) for one in filters.get("label", ())) and not any(has(one) for one in filters.get("label!", ()))


@lru_cache(maxsize=256)
def _glob(pattern: str) -> re.Pattern[str]:
    """Go's `path.Match`: `*` and `?` stop at a slash; classes and backslash escapes."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            end = pattern.find("]", at + 1)
            if end < 0:
                raise InvalidParameter(f"invalid filter 'reference=[{pattern}]'")
            body = pattern[at:end]
            negated = body.startswith("^")
            body = re.sub(r"([\\\[\]&~|])", r"\\\1", body[negated:])
            out.append(f"[{'^' if negated else ''}{body}]")
            at = end + 1
        else:
            if char == "\\" and at < len(pattern):
                char = pattern[at]
                at += 1
            out.append(re.escape(char))
    try:
        return re.compile("".join(out))
    except re.error:
        raise InvalidParameter(f"invalid filter 'reference=[{pattern}]'") from None


def name_matches(pattern: str, name: Reference) -> bool:
    """On the familiar and the full form, with and without the tag."""
    expression = _glob(pattern)
    forms = (name.familiar, name.familiar_name, str(name), name.name)
    return any(expression.fullmatch(form) for form in forms)


def choose(catalog: Catalog, filters: Filters, *, everything: bool, now: float | None = None) -> list[Image]:
    """The images a list shows, newest first. Untagged images that others are built on are shown only with `everything`."""
    check(filters, LIST_FILTERS)
    until = _until(filters, time.time() if now is None else now)
    dangling = boolean(filters, "dangling", False) if filters.get("dangling") else None
    befores = [unix_time(catalog.resolve(text).created) for text in filters.get("before", ())]
    sinces = [unix_time(catalog.resolve(text).created) for text in filters.get("since", ())]
    patterns = list(filters.get("reference", ()))
    result = []
    for image in catalog.images.values():
        created = unix_time(image.created)
        if until is not None and created > until:
            continue
        if any(created >= limit for limit in befores) or any(created <= limit for limit in sinces):
            continue
        if not labels_match(filters, image.config.labels):
            continue
        names = catalog.names(image.id)
        if patterns and not any(name_matches(pattern, name) for pattern in patterns for name in names):
            continue
        untagged = not names
        if dangling is not None and dangling != untagged:
            continue
        if untagged and not everything and catalog.children(image.id):
            continue
        result.append(image)
    return sorted(result, key=lambda image: (-unix_time(image.created), image.id))


def require_platform(image: Image, name: str, platform: Platform | None) -> None:
    """`NotFound` when the image is of another platform than the client asked for."""
    actual = Platform(image.os, image.architecture, image.variant)
    if platform is not None and rank(platform, actual) != 0:
        raise NotFound(
            f"image with reference {name} was found but does not provide the specified platform ({platform}): "
            f"actual: {actual}"
        )


def prunable(catalog: Catalog, filters: Filters, users: Users, now: float) -> list[Image]:
    """The images a prune takes: without names, or (`dangling=false`) without containers; never one that others are built
    on."""
    check(filters, PRUNE_FILTERS)
    only_untagged = boolean(filters, "dangling", True)
    until = _until(filters, now)
    result = []
    for image in catalog.images.values():
        if only_untagged and catalog.names(image.id):
            continue
        if catalog.children(image.id) or users(image.id) or not labels_match(filters, image.config.labels):
            continue
        if until is None or unix_time(image.created) <= until:
            result.append(image)
    return result
