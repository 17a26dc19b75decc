"""Plans the removal of an image: the names to remove, whether to remove the image, and conflicts. This module does no I/O.

The rules are the same as in daemon/images/image_delete.go. A plan is made from the catalog and from the containers that use
an image. The class `Remover` executes the plan while it holds the image store's lock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from orlop_sdk import Conflict

from .catalog import Catalog
from .names import Names
from .platforms import Platform
from .policy import UNRESTRICTED, ImagePolicy
from .records import Image, ImageUser
from .references import Reference

__all__ = ["Removal", "Step", "Users", "plan", "prune"]

Users = Mapping[str, Sequence[ImageUser]]


class Step(NamedTuple):
    """An image, the names to remove from the image, and whether to delete the image. `silent` are the names whose removal
    causes no event, as in dockerd: digests that are removed together with the last tag of their repository."""

    id: str
    names: list[Reference]
    delete: bool
    silent: Collection[Reference] = ()


@dataclass(slots=True)
class Removal:
    """The planned steps, in the order in which they are reported."""

    steps: list[Step] = field(default_factory=list)

    @property
    def images(self) -> list[str]:
        return [step.id for step in self.steps if step.delete]


def _conflict(id: str, why: str, *, hard: bool) -> Conflict:
    force = "cannot be forced" if hard else "must be forced"
    return Conflict(f"conflict: unable to delete {_short(id)} ({force}) - {why}")


def _short(id: str) -> str:
    return id.removeprefix("sha256:")[:12]


def _is_id(image: Image, text: str) -> bool:
    """Whether the text is the image's ID or a prefix of it, with or without the algorithm."""
    return bool(text) and (image.id.startswith(text) or image.id.removeprefix("sha256:").startswith(text))


class _Planner:
    """Plans one step after the other. A step takes the results of the previous steps into account."""

    def __init__(self, catalog: Catalog, users: Users, policy: ImagePolicy) -> None:
        self._catalog, self._users, self._policy = catalog, users, policy
        self._gone: set[str] = set()
        self._left: dict[str, Names] = {}

    def names(self, image: Image) -> Names:
        return self._left.get(image.id, image.names)

    def is_gone(self, image: Image) -> bool:
        return image.id in self._gone

    def _step(self, removal: Removal, image: Image, names: list[Reference], delete: bool) -> None:
        if image.id not in self._left:
            self._left[image.id] = image.names.copy()
        left = self._left[image.id]
        for name in names:
            left.discard(name)
        if delete:
            self._gone.add(image.id)
        removal.steps.append(Step(image.id, names, delete, frozenset(names[1:])))

    def _conflict(self, image: Image, *, force: bool, named: bool) -> Conflict | None:
        """The reason why the image cannot be deleted; None if it can be deleted. `named`: the image keeps some of its
        names."""
        id = image.id
        if any(child not in self._gone for child in self._catalog.children(id)):
            return _conflict(id, "image has dependent child images", hard=True)
        users = self._users.get(id, ())
        running = [user for user in users if user.running]
        if running:
            why = f"image is being used by running container {running[0].container_id[:12]}"
            return _conflict(id, why, hard=True)
        if force:
            return None
        if named:
            return _conflict(id, "image is referenced in multiple repositories", hard=False)
        if users:
            why = f"image is being used by stopped container {users[0].container_id[:12]}"
            return _conflict(id, why, hard=False)
        return None

    def _check(self, image: Image, names: Iterable[Reference]) -> None:
        for name in names:
            if not self._policy.may_take(name, image, self._catalog.owners.get(name, "")):
                raise self._policy.denied(f"removing the name {name.familiar}")

    def by_id(self, image: Image, removal: Removal, *, force: bool) -> None:
        names = self.names(image)
        self._check(image, names)
        if not self._policy.may_delete(image):
            raise self._policy.denied(f"deleting image {_short(image.id)}")
        conflict = self._conflict(image, force=force, named=len(names) > 0 and not names.is_single)
        if conflict is not None:
            raise conflict
        self._gone.add(image.id)
        removal.steps.append(Step(image.id, list(names), True))

    def by_name(self, image: Image, reference: Reference, text: str, removal: Removal, *, force: bool) -> None:
        self._check(image, [reference])
        names, users = self.names(image), self._users.get(image.id, ())
        if not force and users and names.is_single:
            raise Conflict(
                f'conflict: unable to remove repository reference "{text}" (must force) - container '
                f"{users[0].container_id[:12]} is using its referenced image {_short(image.id)}"
            )
        gone = [reference]
        if reference.tag and names.tags_of(reference.name) == 1:
            # This is the image's last tag in the repository, so its digests in the repository are removed, too
            gone += names.digests_of(reference.name)
        self._check(image, gone)
        delete = len(gone) == len(names) and self._policy.may_delete(image)
        if delete:
            # The name is always removed. If a container or a child image needs the image, the image stays without names
            delete = self._conflict(image, force=force, named=False) is None
        self._step(removal, image, gone, delete)

    def parents(self, image: Image, removal: Removal) -> None:
        """Remove untagged parents that only this image needed."""
        while self.is_gone(image):
            parent = self._catalog.images.get(image.parent)
            if parent is None or self.names(parent) or self._conflict(parent, force=False, named=False):
                return
            if not self._policy.may_delete(parent):
                return
            self._step(removal, parent, [], True)
            image = parent


def plan(
    catalog: Catalog,
    users: Users,
    text: str,
    *,
    force: bool,
    prune: bool,
    platforms: Sequence[Platform] = (),
    policy: ImagePolicy = UNRESTRICTED,
) -> Removal:
    """Plan `DELETE /images/{text}`: remove the images for all platforms, or only those for `platforms`. Raises `NotFound`
    and `Conflict` with Docker's messages."""
    removal, planner = Removal(), _Planner(catalog, users, policy)
    image = catalog.resolve(text)
    reference = None if _is_id(image, text) else catalog.reference(text)
    images = [image] if reference is None else catalog.all_platforms(text)
    if platforms:
        images = list({image.id: image for image in (catalog.resolve(text, wanted) for wanted in platforms)}.values())
    for image in images:
        if reference is None:
            planner.by_id(image, removal, force=force)
        else:
            planner.by_name(image, reference, text, removal, force=force)
        if prune:
            planner.parents(image, removal)
    return removal


def prune(
    catalog: Catalog, users: Users, images: Iterable[Image], removal: Removal, policy: ImagePolicy = UNRESTRICTED
) -> Iterator[None]:
    """Plan a prune of these images (daemon/images/image_prune.go). Names are removed as `docker rmi` removes them. Names
    that `docker rmi` refuses to remove are skipped, so an image in use keeps one name. The steps are added to `removal`.
    Yields after each name, so that the caller can let other tasks run."""
    planner = _Planner(catalog, users, policy)
    for image in images:
        names = list(image.names)
        yield
        for name in names:
            with suppress(Conflict):
                if not planner.is_gone(image) and name in planner.names(image):
                    planner.by_name(image, name, "", removal, force=False)
            yield
        if not names and not planner.is_gone(image):
            with suppress(Conflict):
                planner.by_id(image, removal, force=False)
        planner.parents(image, removal)
