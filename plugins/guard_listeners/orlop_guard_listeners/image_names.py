"""Names of images, where clients must not become root: whoever moves a name that others run decides what they run next time,
with all that they give it of the host.

A name belongs to the listener through which it was given, an image to the one through which it came. A client may take names
that belong to its listener, that `image-names` lists, or that an image with the labels has; a free name if it comes from a
registry, or if there is no such list. The engine asks under its lock (`engine.images.policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orlop_engine.images.listing import glob, name_matches
from orlop_engine.images.records import Image
from orlop_engine.images.references import Reference

from .listener_policy import Denied, ListenerPolicy

__all__ = ["ListenerImages"]


class ListenerImages:
    """For one call: an `ImagePolicy`, with its `denied`. `holds`: whether labels are those of the listener, if it has some.
    `pulling`: the names are a registry's, with its content."""

    def __init__(
        self,
        policy: ListenerPolicy,
        holds: Callable[[Mapping[str, str] | None], bool] | None,
        denied: Callable[[str], Denied],
        *,
        pulling: bool,
    ) -> None:
        self.owner = policy.host
        self._patterns = [glob(text) for text in policy.image_names]
        self.denied = denied
        self._policy, self._holds, self._pulling = policy, holds, pulling

    def may_take(self, name: Reference, image: Image | None, owner: str) -> bool:
        if name_matches(self._patterns, name):
            return True
        if image is None:
            return self._pulling or not self._policy.image_names
        return owner == self.owner or self._is_labelled(image)

    def may_delete(self, image: Image) -> bool:
        return image.record.owner == self.owner or self._is_labelled(image)

    def may_use(self, image: Image) -> bool:
        return self._holds is None or self._policy.shared_images or self._is_labelled(image)

    def _is_labelled(self, image: Image) -> bool:
        return self._holds is not None and self._holds(image.config.labels)
