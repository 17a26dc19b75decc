"""Encoded answers of inspect and list about containers. An answer is kept until a value in it changes."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .responses import encode

if TYPE_CHECKING:
    from orlop_engine.containers.container import Container
    from orlop_engine.containers.details import Sizes
    from orlop_engine.containers.listing import Filters
    from orlop_engine.containers.service import Containers
    from orlop_engine.engine import Engine

__all__ = ["ContainerViews"]


_FORMS = ((1, 52), (1, 48), (1, 45))


def _form(version: tuple[int, int]) -> str:
    """The oldest API version whose inspect answer has the same fields. If a new API version adds a field, add the
    version to `_FORMS`."""
    major, minor = next((form for form in _FORMS if version >= form), (1, 24))
    return f"{major}.{minor}"


class _Kept:
    """The answers about one revision of a container. `item` is the container's item in lists, valid for one
    `images_revision`; `inspected` has an answer of inspect for each `_form`."""

    __slots__ = ("images_revision", "inspected", "item", "revision")

    def __init__(self, revision: object) -> None:
        self.revision = revision
        self.inspected: dict[str, bytes] = {}
        self.item = b""
        self.images_revision = -1


class ContainerViews:
    """The encoded answers of a front end. The answers about a container are dropped together with the `Container`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[str, _Kept] = {}

    @property
    def _containers(self) -> Containers:
        return self._engine.containers  # imported at the first request, because the daemon's start does not need it

    async def inspect(self, container: Container, version: tuple[int, int], *, size: bool = False) -> bytes:
        """`GET /containers/{id}/json`. Without `size`, this method calls no driver that can hang, and takes no lock."""
        key = _form(version)
        # Answers with links are not kept, because a rename of a link's target only changes the revision of the target.
        keep = not size and not container.record.host_config.links
        if keep and (found := self._of(container).inspected.get(key)):
            return found
        from .wire.containers import container_view

        sizes = await self._containers.sizes(container) if size else None
        shown = container_view(await self._containers.describe(container), version)
        if sizes is not None:
            shown.size_rw, shown.size_root_fs = sizes
        answer = encode(shown)
        if keep:
            self._of(container).inspected[key] = answer
        return answer

    async def listed(
        self, *, everything: bool, limit: int, filters: Filters, size: bool, health: bool = False, manifests: bool = False
    ) -> bytes:
        """`GET /containers/json`. `health`: include the results of health checks. `manifests`: include the manifests of the
        images."""
        chosen = self._containers.select(everything=everything, limit=limit, filters=filters)
        sizes = await self._containers.measure(chosen) if size else {}
        return b"[" + b",".join(self.items(chosen, sizes, health=health, manifests=manifests)) + b"]"

    def items(
        self,
        containers: Iterable[Container],
        sizes: Mapping[str, Sizes | None],
        *,
        health: bool = False,
        manifests: bool = False,
    ) -> list[bytes]:
        """The items of a list."""
        from .wire.container_list import changing, manifest

        linked, images, now = self._containers.linked_names(), self._containers.images_revision, time.time_ns()
        found = []
        for container in containers:
            ident = container.record.id
            kept = self._kept.get(ident)
            if linked and (names := linked.get(ident)):
                item = self._item(container, names)
            elif kept is None or kept.revision is not container.revision or kept.images_revision != images:
                item = self._item(container, ())
                kept = self._of(container)
                kept.item, kept.images_revision = item, images
            else:
                item = kept.item
            more = changing(container, sizes.get(ident), now, health=health).encode()
            if manifests:
                more = manifest(container.record) + more
            found.append(item[:-1] + more + b"}")
        return found

    def _item(self, container: Container, names: Sequence[str]) -> bytes:
        from .wire.container_list import list_item

        return encode(list_item(self._containers.summary(container), names))

    def _of(self, container: Container) -> _Kept:
        """The kept answers about the container's present revision."""
        kept = self._kept.get(container.id)
        if kept is None:
            weakref.finalize(container, self._kept.pop, container.id, None).atexit = False
        if kept is None or kept.revision is not container.revision:
            kept = self._kept[container.id] = _Kept(container.revision)
        return kept
