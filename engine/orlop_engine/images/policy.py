"""What a client may do with existing names and images. The permissions are checked while the lock for changes of names and
images is held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from orlop_engine.pace import Pace

from .records import Image
from .references import Reference

if TYPE_CHECKING:
    from .catalog import Catalog

__all__ = ["UNRESTRICTED", "ImagePolicy", "check_names", "owner_of_image", "owner_of_name", "removable"]


class ImagePolicy(Protocol):
    """The permissions of one client. `owner` is stored with the names and images that the client creates. It is the address
    of the listener that the client uses, or "" for an unrestricted client."""

    @property
    def owner(self) -> str: ...

    def may_take(self, name: Reference, image: Image | None, owner: str) -> bool:
        """Whether the client may add `name` to an image, or remove the name. `image` is the image that has the name now,
        None if the name is free. `owner` is the name's owner."""
        ...

    def may_delete(self, image: Image) -> bool:
        """Whether the client may delete an image. Removing the last name of an image also deletes the image."""
        ...

    def may_use(self, image: Image) -> bool:
        """Whether the client may create a container from an image, or save the image. Checked after the final look-up of the
        image's name, because the name may have referred to another image when the request was authorized."""
        ...

    def denied(self, what: str) -> Exception:
        """The exception to raise for a denied operation. `what` describes the operation."""
        ...


class _Unrestricted:
    owner = ""

    def may_take(self, name: Reference, image: Image | None, owner: str) -> bool:
        return True

    def may_delete(self, image: Image) -> bool:
        return True

    def may_use(self, image: Image) -> bool:
        return True

    def denied(self, what: str) -> Exception:
        raise AssertionError(f"asked to deny {what}, but this policy allows everything")


UNRESTRICTED: ImagePolicy = _Unrestricted()


def check_names(policy: ImagePolicy, catalog: Catalog, names: Iterable[Reference], id: str) -> None:
    """Raise the policy's exception if one of the names may not be added to image `id` ("" for an image that does not exist
    yet)."""
    if policy is UNRESTRICTED:
        return
    for name in names:
        before = catalog.references.get(name)
        if before == id:
            continue
        if not policy.may_take(name, catalog.images[before] if before else None, catalog.owners.get(name, "")):
            raise policy.denied(
                f"moving the name {name.familiar} to another image" if before else f"the name {name.familiar}"
            )


async def removable(policy: ImagePolicy, catalog: Catalog, images: Sequence[Image]) -> Sequence[Image]:
    """The images that the client may remove together with all their names."""
    if policy is UNRESTRICTED:
        return images
    pace, found = Pace(), []
    for image in images:
        may = policy.may_delete(image)
        for name in catalog.names(image.id):
            may = may and policy.may_take(name, image, catalog.owners.get(name, ""))
            await pace()
        if may:
            found.append(image)
    return found


def owner_of_name(policy: ImagePolicy, catalog: Catalog, name: Reference, id: str) -> str:
    """The owner of a name after the client has added the name to image `id`. If the image has this name already, the owner
    does not change."""
    if catalog.references.get(name) != id or catalog.owners.get(name, "") == policy.owner:
        return policy.owner
    return ""


def owner_of_image(policy: ImagePolicy, known: Image | None) -> str:
    """The owner of an image that the client adds. An image that was added under different owners has no owner."""
    return policy.owner if known is None or known.record.owner == policy.owner else ""
