"""What removing an image means: which names go, whether the image goes, and why not. Sans-IO.

The rules are those of daemon/images/image_delete.go. A plan is made from the catalog and the containers that use an
image; the service carries it out under its lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from orlop_kernel.spi import Conflict

from .catalog import Catalog
from .records import Image, ImageUser
from .references import Reference, parse

__all__ = ["Removal", "plan"]

Users = Callable[[str], Sequence[ImageUser]]


@dataclass(slots=True)
class Removal:
    """What to do, in the order in which the client is told. `steps` are (image ID, names to untag, delete the image)."""

    steps: list[tuple[str, list[Reference], bool]] = field(default_factory=list)

    @property
    def names(self) -> list[Reference]:
        return [name for _, names, _ in self.steps for name in names]

    @property
    def images(self) -> list[str]:
        return [id for id, _, delete in self.steps if delete]


def _conflict(id: str, why: str, *, hard: bool) -> Conflict:
    force = "cannot be forced" if hard else "must be forced"
    return Conflict(f"conflict: unable to delete {_short(id)} ({force}) - {why}")


def _short(id: str) -> str:
    return id.removeprefix("sha256:")[:12]


def _is_single(names: Sequence[Reference]) -> bool:
    """All names are of one repository, with at most one tag."""
    tagged = [name for name in names if name.tag]
    if len(names) <= 1:
        return len(names) == 1
    if len(tagged) > 1:
        return False
    repositories = {name.name for name in names if name.digest}
    return repositories == {(tagged or list(names))[0].name}


def _is_id(image: Image, text: str) -> bool:
    """Whether the user meant the ID: a prefix of it, with or without its algorithm."""
    return bool(text) and (image.id.startswith(text) or image.id.removeprefix("sha256:").startswith(text))


class _Planner:
    def __init__(self, catalog: Catalog, users: Users) -> None:
        self._catalog, self._users = catalog, users
        self._gone: set[str] = set()

    def _conflict(self, id: str, names: Sequence[Reference], *, force: bool, by_id: bool = False) -> Conflict | None:
        """`by_id`: all names go too, so that having names is no conflict."""
        if any(child not in self._gone for child in self._catalog.children(id)):
            return _conflict(id, "image has dependent child images", hard=True)
        users = self._users(id)
        running = [user for user in users if user.running]
        if running:
            why = f"image is being used by running container {running[0].container_id[:12]}"
            return _conflict(id, why, hard=True)
        if force:
            return None
        if names and not by_id:
            return _conflict(id, "image is referenced in multiple repositories", hard=False)
        if users:
            why = f"image is being used by stopped container {users[0].container_id[:12]}"
            return _conflict(id, why, hard=False)
        return None

    def by_id(self, image: Image, removal: Removal, *, force: bool) -> None:
        names = self._catalog.names(image.id)
        conflict = self._conflict(image.id, names, force=force, by_id=_is_single(names))
        if conflict is not None:
            raise conflict
        removal.steps.append((image.id, names, True))

    def by_name(self, image: Image, reference: Reference, text: str, removal: Removal, *, force: bool) -> None:
        names = self._catalog.names(image.id)
        users = self._users(image.id)
        if not force and _is_single(names) and users:
            raise Conflict(
                f'conflict: unable to remove repository reference "{text}" (must force) - container '
                f"{users[0].container_id[:12]} is using its referenced image {_short(image.id)}"
            )
        gone, left = [reference], [name for name in names if name != reference]
        if reference.tag and not any(name.tag and name.name == reference.name for name in left):
            gone += [name for name in left if name.name == reference.name]
            left = [name for name in left if name.name != reference.name]
        delete = not left
        if delete:
            conflict = self._conflict(image.id, (), force=force)
            # The name goes in any case; what a container or a child needs stays, as an image without names
            delete = conflict is None
        removal.steps.append((image.id, gone, delete))

    def parents(self, image: Image, removal: Removal) -> None:
        """Untagged parents that only this image needed."""
        while removal.steps[-1][2]:
            self._gone.add(image.id)
            parent = self._catalog.images.get(image.parent)
            if parent is None or self._catalog.names(parent.id) or self._conflict(parent.id, (), force=False):
                return
            removal.steps.append((parent.id, [], True))
            image = parent


def plan(catalog: Catalog, users: Users, text: str, *, force: bool, prune: bool) -> Removal:
    """What `DELETE /images/{text}` does. `NotFound` and `Conflict` in Docker's words."""
    image = catalog.resolve(text)
    removal, planner = Removal(), _Planner(catalog, users)
    if _is_id(image, text):
        planner.by_id(image, removal, force=force)
    else:
        reference = parse(text)
        reference = reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()
        planner.by_name(image, reference, text, removal, force=force)
    if prune:
        planner.parents(image, removal)
    return removal
