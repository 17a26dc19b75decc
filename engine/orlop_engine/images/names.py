"""The references of one image, in the order in which they are shown. Sans-IO.

An archive or a client decides how many names an image has: adding one, and finding those of one repository, must not scan
the others.
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
    """Only the catalog changes it, in place, so an `Image` that was looked up earlier shows the current names.

    An insertion only moves pointers (some 10 us among 100,000), and none at the end of the order: boot reads rows in that
    order, and removals go through it in reverse.
    """

    __slots__ = ("_entries", "tagged")

    def __init__(self) -> None:
        self._entries: list[_Entry] = []
        self.tagged = 0
        """The number of names with a tag; the others have a digest."""

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
        """The number of tags in one repository. They are adjacent, before its digests: no character of a name sorts between
        ":" and "@"."""
        return self._at(f"{repository}@") - self._at(f"{repository}:")

    def digests_of(self, repository: str) -> list[Reference]:
        found = self._entries[self._at(f"{repository}@") : self._at(f"{repository}A")]
        return [entry.reference for entry in found]

    def _at(self, text: str) -> int:
        return bisect_left(self._entries, (text,))

    @property
    def is_single(self) -> bool:
        """Whether all names are of one repository, with at most one tag. False without any name."""
        if not self._entries or self.tagged > 1:
            return False
        name = self._entries[0].reference.name
        return self._at(f"{name}A") - self._at(f"{name}:") == len(self._entries)

    def copy(self) -> Names:
        made = Names()
        made._entries, made.tagged = self._entries.copy(), self.tagged
        return made
