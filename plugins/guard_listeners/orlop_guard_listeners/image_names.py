"""Image names on restricted listeners. If a client moves a name to another image, other clients who use this name run the
other image, with the host access that they allow. So a restricted client may not move every name.

A name belongs to the listener through which it was assigned. An image belongs to the listener through which it was added. A
client may assign a name if the name belongs to the client's listener, if `image-names` lists the name, or if the name's
image has the listener's labels. A client may assign a free name if the image comes from a registry, or if `image-names` is
not set. The engine calls these checks while it holds its lock (`engine.images.policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orlop_engine.images.listing import glob, name_matches
from orlop_engine.images.records import Image
from orlop_engine.images.references import Reference

from .listener_policy import Denied, ListenerPolicy

__all__ = ["ListenerImages"]


class ListenerImages:
    """An `ImagePolicy` for one call. `denied` makes its errors. `matches` returns whether labels match the labels of the
    listener; None for a listener without labels. `pulling`: the name and content of an image come from a registry."""

    def __init__(
        self,
        policy: ListenerPolicy,
        matches: Callable[[Mapping[str, str] | None], bool] | None,
        denied: Callable[[str], Denied],
        *,
        pulling: bool,
    ) -> None:
        self.owner = policy.host
        self._patterns = [glob(text) for text in policy.image_names]
        self.denied = denied
        self._policy, self._matches, self._pulling = policy, matches, pulling

    def may_take(self, name: Reference, image: Image | None, owner: str) -> bool:
        if name_matches(self._patterns, name):
            return True
        if image is None:
            return self._pulling or not self._policy.image_names
        return owner == self.owner or self._is_labelled(image)

    def may_delete(self, image: Image) -> bool:
        return image.record.owner == self.owner or self._is_labelled(image)

    def may_use(self, image: Image) -> bool:
        return self._matches is None or self._policy.shared_images or self._is_labelled(image)

    def _is_labelled(self, image: Image) -> bool:
        return self._matches is not None and self._matches(image.config.labels)
