"""The references of one image, kept in the order in which they are shown. Sans-IO.

An archive or a client decides how many there are: adding one, and finding those of one repository, must not look at the
others.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from .references import Reference

__all__ = ["Names"]


class _Entry(NamedTuple):
    text: str
    familiar: str
    reference: Reference


class Names:
    """Changed by the catalog alone, in place: an image that is looked at later shows the names that it has then.

    An insertion moves pointers only (some 10 us among 100,000), and none at the end of the order: rows come in that order
    at boot, and removals go through it backwards."""

    __slots__ = ("_entries", "tagged")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self.tagged = 0
        """How many have a tag; the others have a digest."""

    def add(self, reference: Reference) -> None:
        text = str(reference)
        at = self._at(text)
        if at == len(self._entries) or self._entries[at].text != text:
            self._entries.insert(at, _Entry(text, reference.familiar, reference))
            self.tagged += bool(reference.tag)

    def discard(self, reference: Reference) -> None:
        text = str(reference)
        at = self._at(text)
        if at < len(self._entries) and self._entries[at].text == text:
            del self._entries[at]
            self.tagged -= bool(reference.tag)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, reference: Reference) -> bool:
        at, text = self._at(str(reference)), str(reference)
        return at < len(self._entries) and self._entries[at].text == text

    def __iter__(self) -> Iterator[Reference]:
        return (entry.reference for entry in self._entries)

    @property
    def tags(self) -> list[str]:
        """In familiar form."""
        return [entry.familiar for entry in self._entries if entry.reference.tag]

    @property
    def digests(self) -> list[str]:
        return [entry.familiar for entry in self._entries if entry.reference.digest]

    def tags_of(self, repository: str) -> int:
        """How many tags of one repository there are. They stand together, before its digests: no character of a name sorts
        between ":" and "@"."""
        return self._at(f"{repository}@") - self._at(f"{repository}:")

    def digests_of(self, repository: str) -> list[Reference]:
        found = self._entries[self._at(f"{repository}@") : self._at(f"{repository}A")]
        return [entry.reference for entry in found]

    def _at(self, text: str) -> int:
        return bisect_left(self._entries, (text,))

    @property
    def is_single(self) -> bool:
        """Whether all are of one repository, with at most one tag; not so without any name."""
        if not self._entries or self.tagged > 1:
            return False
        name = self._entries[0].reference.name
        return self._at(f"{name}A") - self._at(f"{name}:") == len(self._entries)

    def copy(self) -> Names:
        made = Names()
        made._entries, made.tagged = self._entries.copy(), self.tagged
        return made
