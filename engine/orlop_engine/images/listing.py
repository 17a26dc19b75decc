"""Filters that select the images for a list or a prune (like moby's daemon/images/image_list.go and image_prune.go)."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from orlop_engine.pace import Pace
from orlop_engine.types import parse_rfc3339
from orlop_sdk import InvalidParameter

from .catalog import Catalog
from .records import Image
from .references import Reference

__all__ = ["Filters", "Listed", "boolean", "choose", "glob", "labels_match", "moment", "names_of", "prunable"]

Filters = Mapping[str, Collection[str]]
LIST_FILTERS = frozenset({"dangling", "label", "label!", "before", "since", "reference", "until"})
PRUNE_FILTERS = frozenset({"dangling", "label", "label!", "until"})
_LONGEST_PATTERN, _MOST_PATTERNS = 1024, 100  # limits, because each pattern is compiled, and matched against every name
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_LONGEST = 64  # characters; real durations are shorter, and a longer number may not fit into a float
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def check(filters: Filters, known: Collection[str]) -> None:
    for name in filters:
        if name not in known:
            raise InvalidParameter(f"invalid filter '{name}'")


def boolean(filters: Filters, name: str, default: bool) -> bool:
    """The value of a boolean filter. If the filter has several values, all of them must be the same."""
    values = set(filters.get(name, ()))
    if not values:
        return default
    true, false = values <= {"1", "true"}, values <= {"0", "false"}
    if true == false:
        raise InvalidParameter(f"invalid filter '{name}=[{' '.join(sorted(values))}]'")
    return true


def moment(text: str, now: float) -> float:
    """Convert the value of an `until` filter to Unix time. The value is a number of Unix seconds, an RFC 3339 date (possibly
    abbreviated), or a Go duration, which is subtracted from the current time."""
    if re.fullmatch(r"\d{1,15}(\.\d+)?", text, re.ASCII):
        return float(text)
    pieces = _DURATION.findall(text) if len(text) < _LONGEST else []
    if pieces and "".join(number + unit for number, unit in pieces) == text:
        return now - sum(float(number) * _SECONDS[unit] for number, unit in pieces)
    for suffix in ("", "Z", ":00Z", ":00:00Z", "T00:00:00Z"):
        try:
            return parse_rfc3339(text + suffix) / 1e9
        except ValueError:
            continue
    raise InvalidParameter(f'failed to parse value as time or duration: "{text}"')


def labels_match(filters: Filters, labels: Mapping[str, str] | None) -> bool:
    """Whether labels match the filters `label` (all its values must match) and `label!` (none of its values may
    match)."""
    have = labels or {}

    def has(wanted: str) -> bool:
        key, equals, value = wanted.partition("=")
        return key in have and (not equals or have[key] == value)

    return all(has(one) for one in filters.get("label", ())) and not any(has(one) for one in filters.get("label!", ()))


def _bad_pattern(pattern: str) -> InvalidParameter:
    return InvalidParameter(f"invalid filter 'reference=[{pattern[:_LONGEST_PATTERN]}]'")


def _class(pattern: str, at: int) -> tuple[str, int]:
    """Translate the character class that begins at the position `at` of the pattern. Returns a regular expression, and the
    position after the class."""
    end = pattern.find("]", at + 2)
    if end < 0:
        raise _bad_pattern(pattern)
    body = pattern[at + 1 : end]
    negated = body.startswith("^")
    body = re.sub(r"([\\\[\]&~|])", r"\\\1", body[negated:])
    return f"[{'^' if negated else ''}{body}]", end + 1


def _pieces(pattern: str) -> Iterator[str]:
    """The parts of a pattern between its stars, as regular expressions."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if char == "[":
            piece, at = _class(pattern, at)
            out += piece
            continue
        if char == "*":
            yield out
            out = ""
        elif char == "?":
            out += "[^/]"
        else:
            if char == "\\" and at + 1 < len(pattern):
                at += 1
            out += re.escape(pattern[at])
        at += 1
    yield out


@lru_cache(maxsize=256)
def glob(pattern: str) -> re.Pattern[str]:
    """Like Go's `path.Match`: `*` and `?` do not match a slash; character classes and backslash escapes are supported. As in
    Go, the text between two stars matches only at its first possible position (an atomic group). This prevents exponential
    backtracking in a pattern with many stars."""
    if len(pattern) > _LONGEST_PATTERN:
        raise _bad_pattern(pattern)
    first, *rest = _pieces(pattern)
    inner = "".join(f"(?>[^/]*?{piece})" for piece in rest[:-1] if piece)
    last = f"[^/]*{rest[-1]}" if rest else ""
    try:
        return re.compile(first + inner + last)
    except re.error:
        raise _bad_pattern(pattern) from None


def name_matches(patterns: Sequence[re.Pattern[str]], name: Reference) -> bool:
    """Whether one of the patterns matches the name, in its familiar or full form, with or without the tag."""
    forms = (name.familiar, name.familiar_name, str(name), name.name)
    return any(pattern.fullmatch(form) for pattern in patterns for form in forms)


class Listed(NamedTuple):
    """An image as a list shows it, with the matching names in familiar form."""

    image: Image
    tags: list[str]
    digests: list[str]


class _Wanted:
    """The parsed filters of a list."""

    def __init__(self, catalog: Catalog, filters: Filters, everything: bool, now: float, newest: bool) -> None:
        check(filters, LIST_FILTERS)
        self._meaning = catalog.newest if newest else catalog.references.__getitem__
        self._catalog, self._filters, self._everything = catalog, filters, everything
        before = [catalog.resolve(text).created_ns for text in filters.get("before", ())]
        before += [int(moment(text, now) * 1e9) for text in filters.get("until", ())]
        since = [catalog.resolve(text).created_ns for text in filters.get("since", ())]
        self._before = min((limit for limit in before if limit is not None), default=None)
        self._since = max((limit for limit in since if limit is not None), default=None)
        self._dangling = boolean(filters, "dangling", False) if filters.get("dangling") else None
        patterns = filters.get("reference", ())
        if len(patterns) > _MOST_PATTERNS:
            raise InvalidParameter(f"invalid filter 'reference': it has more than {_MOST_PATTERNS} values")
        self._patterns = [glob(pattern) for pattern in patterns]

    async def names(self, image: Image, pace: Pace) -> tuple[list[str], list[str]] | None:
        """The matching tags and digests. None if the image has names, but the list shows each of these names with another
        image."""
        shared = self._catalog.shares_names(image.id)
        if not self._patterns and not shared:
            return image.repo_tags, image.repo_digests
        tags: list[str] = []
        digests: list[str] = []
        own = 0
        for name in list(image.names):
            await pace()
            if shared and self._meaning(name) != image.id:
                continue
            own += 1
            if not self._patterns or name_matches(self._patterns, name):
                (tags if name.tag else digests).append(name.familiar)
        return (tags, digests) if own or not image.names else None

    def by_itself(self, image: Image) -> bool:
        """Whether the image matches the filters that do not depend on its names."""
        created = image.created_ns
        if self._before is not None and (created is None or created >= self._before):
            return False
        if self._since is not None and (created is None or created <= self._since):
            return False
        return labels_match(self._filters, image.config.labels)

    def by_names(self, image: Image, tags: Sequence[str], digests: Sequence[str]) -> bool:
        if tags or digests:
            return not (self._dangling and tags)
        hidden = not self._everything and self._catalog.has_children(image.id)
        return not self._patterns and self._dangling is not False and not hidden


async def names_of(catalog: Catalog, image: Image) -> tuple[list[str], list[str]]:
    """The tags and digests that clients of old API versions see. In these versions, a name refers to only one image."""
    found = await _Wanted(catalog, {}, True, 0, True).names(image, Pace())
    return found or ([], [])


async def choose(
    catalog: Catalog, filters: Filters, *, everything: bool, newest: bool = False, now: float | None = None
) -> list[Listed]:
    """The images that a list shows, newest first. Untagged images with children are shown only if `everything` is true. A
    name that refers to images for several platforms is shown with the image for this host; the other images of the name have
    no entry. If `newest` is true, the list is for clients of old API versions, in which a name refers to only one image. In
    this case the name is shown with the image that was added last, and the other images are shown as untagged."""
    wanted = _Wanted(catalog, filters, everything, time.time() if now is None else now, newest)
    pace, result = Pace(), []
    for image in list(catalog.images.values()):
        await pace()
        if wanted.by_itself(image):
            names = await wanted.names(image, pace)
            if names is None and not newest:
                continue
            tags, digests = names or ([], [])
            if wanted.by_names(image, tags, digests):
                result.append(Listed(image, tags, digests))
    return sorted(result, key=lambda item: (-(item.image.created_ns or 0), item.image.id))


async def prunable(catalog: Catalog, filters: Filters, now: float) -> list[Image]:
    """The images that a prune tries to remove: images without a tag, or with `dangling=false` all images. An image
    without names that has children is removed together with its last child."""
    check(filters, PRUNE_FILTERS)
    only_untagged = boolean(filters, "dangling", True)
    values = list(filters.get("until", ()))
    if len(values) > 1:
        raise InvalidParameter("more than one until filter specified")
    until = int(moment(values[0], now) * 1e9) if values else None
    pace, result = Pace(), []
    for image in list(catalog.images.values()):
        await pace()
        if (only_untagged and image.names.tagged) or (not image.names and catalog.has_children(image.id)):
            continue
        if until is not None and (image.created_ns is None or image.created_ns > until):
            continue
        if labels_match(filters, image.config.labels):
            result.append(image)
    return result
