"""The restrictions of a builder's clients: which images they may use and make.

A build pulls and uses images, runs commands, and makes and names images. Its client can also request these operations
directly, so the client's restrictions also apply to its builds. A builder serves only clients of one domain
(`Restrictions.builds`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import Image
from orlop_engine.restrictions import NO_RESTRICTIONS, Restrictions
from orlop_engine.types.containers import HostConfig
from orlop_sdk import InvalidParameter

__all__ = ["Scope"]


class Scope:
    """`restrictions` come from the latest call of the builder's clients, because a reload may change them."""

    def __init__(self, domain: str = "") -> None:
        self.domain = domain
        self.restrictions: Restrictions = NO_RESTRICTIONS

    @property
    def is_restricted(self) -> bool:
        return self.restrictions.builds is not None

    def check_image(self, image: Image, name: str) -> None:
        """Raise the policy's error if the client may not use the image."""
        policy = self.restrictions.images
        if not policy.may_use(image):
            raise policy.denied(f"image {name}")

    def check_pull(self) -> None:
        if self.restrictions.builds is not None:
            self.restrictions.builds.check_pull()

    def restricted(self, request: PullRequest) -> PullRequest:
        builds = self.restrictions.builds
        if builds is not None:
            request = PullRequest(
                request.reference, request.platform, request.credentials, builds.pulls, self.restrictions.refuse
            )
        return request

    def check_step(self, host: HostConfig) -> None:
        if self.restrictions.builds is not None:
            self.restrictions.builds.check_step(host)

    def labelled(self, config: bytes) -> bytes:
        """The configuration of an image, with the labels that the client's objects must have."""
        builds = self.restrictions.builds
        if builds is None:
            return config
        try:
            document = msgspec.json.decode(config, type=dict[str, msgspec.Raw])
            own = msgspec.json.decode(document.get("config") or b"{}", type=dict[str, msgspec.Raw] | None) or {}
            labels = msgspec.json.decode(own.get("Labels") or b"{}", type=dict[str, str] | None) or {}
        except msgspec.MsgspecError as error:
            raise InvalidParameter(f"cannot make the image: {error}") from error
        wanted: Mapping[str, str] = builds.label(labels)
        if wanted == labels:
            return config
        own["Labels"] = msgspec.Raw(msgspec.json.encode(wanted))
        document["config"] = msgspec.Raw(msgspec.json.encode(own))
        return msgspec.json.encode(document)
