"""The instructions of a Dockerfile as the numbered steps of dockerd's classic builder. This module does no I/O."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from orlop_build_dockerfile.dockerfile.interface import DockerfileError
from orlop_build_dockerfile.dockerfile.limits import Budget
from orlop_build_dockerfile.dockerfile.parser import parse
from orlop_build_dockerfile.pb.ops_pb2 import Definition

__all__ = ["Steps"]


class Steps(msgspec.Struct):
    """`titles` are the lines "Step 1/3 : FROM busybox" without their ends, `places` the number of the instruction of each
    vertex. Every title is shown once, in the order of the file."""

    titles: list[str]
    places: dict[str, int]
    shown: int = 0

    @classmethod
    def of(cls, definition: Definition) -> Steps:
        for info in definition.Source.infos:
            if info.language.lower() == "dockerfile":
                try:
                    nodes = parse(info.data.decode("utf-8", "replace"), Budget()).nodes
                except DockerfileError:
                    continue
                total = len(nodes)
                titles = [f"Step {number}/{total} : {node.original}" for number, node in enumerate(nodes, 1)]
                starts = [node.lines.start for node in nodes]
                return cls(titles, dict(_places(definition, starts)))
        return cls([], {})

    def until(self, digest: str) -> list[str]:
        """The titles to show before the output of this vertex: its own title, and the titles of earlier instructions."""
        place = self.places.get(digest)
        return [] if place is None else self._next(place)

    def rest(self) -> list[str]:
        return self._next(len(self.titles))

    def _next(self, place: int) -> list[str]:
        found = self.titles[self.shown : place]
        self.shown = max(self.shown, place)
        return found


def _places(definition: Definition, starts: list[int]) -> Iterable[tuple[str, int]]:
    numbers = {line: number for number, line in enumerate(starts, 1)}
    for digest, locations in definition.Source.locations.items():
        lines = (span.start.line for location in locations.locations for span in location.ranges)
        first = min(lines, default=0)
        if number := numbers.get(first):
            yield digest, number
