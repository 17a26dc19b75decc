"""Ask a registry which manifest or index (Docker's "manifest list") it has under a name. This module is imported on demand,
like `registry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orlop_sdk import DriverError, Forbidden, InvalidParameter, NotFound, OrlopError, Unauthorized, Unavailable

from . import documents
from .connector import Access, Connector
from .documents import MAX_MANIFEST
from .manifests import Descriptor, Index
from .manifests import parse as parse_manifest
from .references import image_id, parse
from .refusals import RegistryRefusal
from .registry_errors import NO_CREDENTIALS, RegistryError
from .sources import Sources

if TYPE_CHECKING:
    from .destinations import Refuse
    from .registry_auth import Credentials

__all__ = ["Distribution", "DistributionPlatform", "inspect"]


_KINDS: dict[str, type[OrlopError]] = {
    "BLOB_UNKNOWN": NotFound,
    "DENIED": Forbidden,
    "DIGEST_INVALID": InvalidParameter,
    "MANIFEST_INVALID": InvalidParameter,
    "MANIFEST_UNKNOWN": NotFound,
    "NAME_INVALID": InvalidParameter,
    "NAME_UNKNOWN": NotFound,
    "TAG_INVALID": InvalidParameter,
    "UNAUTHORIZED": Unauthorized,
    "UNAVAILABLE": Unavailable,
}
"""The registry's error code -> the exception that has the same HTTP status as dockerd's answer."""
_STATUSES = {"TOOMANYREQUESTS": 429, "UNSUPPORTED": 405}
"""The registry's error code -> the HTTP status of dockerd's answer, if no exception has this status."""


class DistributionPlatform(NamedTuple):
    """A platform as a registry returns it, with all fields of the OCI specification."""

    architecture: str
    os: str
    os_version: str
    os_features: tuple[str, ...]
    variant: str


class Distribution(NamedTuple):
    """A manifest or an index, and its platforms. `platforms` is None if the platforms are not known."""

    descriptor: Descriptor
    platforms: list[DistributionPlatform] | None


class _Offered(msgspec.Struct):
    platform: dict[str, Any] | None = None


class _Offers(msgspec.Struct):
    manifests: list[_Offered] = []


async def inspect(connector: Connector, name: str, credentials: Credentials, refuse: Refuse | None) -> Distribution:
    """The descriptor and platforms of a manifest or index. Raises errors with Docker's messages and statuses."""
    if image_id(name) is not None:
        raise DriverError("no manifest found for full image ID")
    reference = parse(name)
    if reference.familiar_name == "scratch":
        raise InvalidParameter("'scratch' is a reserved name")
    reference = reference.with_digest(reference.digest) if reference.digest else reference.with_default_tag()

    sources = await connector.sources(Access(reference, credentials, refuse))
    try:
        async with sources.borrowed():
            return await _read(sources, reference.digest or reference.tag)
    except RegistryError as error:
        raise _translate(error) from error


async def _read(sources: Sources, reference: str) -> Distribution:
    content_type, data = await sources.manifest(reference)
    found = parse_manifest(content_type, data)
    descriptor = Descriptor(documents.digest(data), len(data), found.media_type)
    if isinstance(found, Index):
        offers = msgspec.json.decode(data, type=_Offers).manifests
        return Distribution(descriptor, [_platform(offer.platform or {}) for offer in offers if offer.platform])
    async with sources.blob(found.config.digest) as (_, pieces):
        raw = bytearray()
        async for piece in pieces:
            raw += piece
            if len(raw) > MAX_MANIFEST:
                raise DriverError(f"cannot read image configuration: larger than {MAX_MANIFEST} bytes")
    if documents.digest(bytes(raw)) != found.config.digest:
        raise DriverError(f"image config verification failed for digest {found.config.digest}")
    try:
        platform = _platform(msgspec.json.decode(raw, type=dict[str, Any]))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return Distribution(descriptor, None)
    return Distribution(descriptor, [platform] if platform.os or platform.architecture else None)


def _platform(given: dict[str, Any]) -> DistributionPlatform:
    features = given.get("os.features")
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    return DistributionPlatform(
        texts.get("architecture", ""),
        texts.get("os", ""),
        texts.get("os.version", ""),
        tuple(text for text in features if isinstance(text, str)) if isinstance(features, list) else (),
        texts.get("variant", ""),
    )


def _translate(error: RegistryError) -> OrlopError:
    if str(error).endswith(NO_CREDENTIALS):
        return error  # dockerd answers with 500
    if error.code in _STATUSES:
        return RegistryRefusal(str(error), _STATUSES[error.code])
    kind = NotFound if error.status == 404 else _KINDS.get(error.code)
    return error if kind is None else kind(str(error))
