"""Manifests of images and lists at a registry."""

from __future__ import annotations

from orlop_cli._errors import CliError
from orlop_cli.manifests.manifest import (
    MANIFEST_LIST,
    MANIFEST_V2,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    digest_of,
    full,
    platform_of,
)
from orlop_cli.manifests.registry import NoTls, Refused, Registry
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli.values.references import Reference

__all__ = ["image", "image_or_list"]


def image(reference: Reference, insecure: bool) -> Manifest:
    """The manifest of one image. Raises CliError."""
    found = image_or_list(reference, insecure)
    if isinstance(found, Manifest):
        return found
    raise CliError(f"{full(reference)} is a manifest list")


def image_or_list(reference: Reference, insecure: bool) -> Manifest | list[Manifest]:
    """The manifest of one image, or the manifests of all images of a list. Raises CliError."""
    registry = Registry(reference.domain, insecure)
    missing = f"no such manifest: {full(reference)}"
    try:
        media, data = registry.manifest(reference.path, reference.digest or reference.tag)
        if media in (MANIFEST_LIST, OCI_INDEX):
            _verify(reference.digest, data)
            return [_entry(registry, reference, one) for one in _object(data)["manifests"]]
        return _image(registry, reference, media, data)
    except NoTls as error:
        raise CliError(f"{missing}\n{error.message}; use --insecure to allow this") from None
    except Refused as error:
        if error.status in (401, 403):
            raise CliError(
                f"{missing}\n{error.message}\nIf the repository is private, run: orlop login {reference.domain}"
            ) from None
        raise CliError(missing if error.status == 404 else f"{missing}\n{error.message}") from None
    except (LookupError, TypeError, ValueError, RecursionError):
        raise CliError(f"{full(reference)} is not a manifest") from None


def _entry(registry: Registry, reference: Reference, entry: dict[str, Any]) -> Manifest:
    """The manifest of an entry of a list, with the platform of the entry."""
    one = reference._replace(digest=str(entry["digest"]))
    made = _image(registry, one, *registry.manifest(reference.path, one.digest))
    made.platform = platform_of(entry["platform"])
    return made


def _image(registry: Registry, reference: Reference, media: str, data: bytes) -> Manifest:
    if media not in (MANIFEST_V2, OCI_MANIFEST):
        raise CliError(f"{full(reference)} is not a manifest of an image, but has the type {media}")
    _verify(reference.digest, data)
    digest = str(_object(data)["config"]["digest"])
    config = registry.blob(reference.path, digest)
    if digest_of(config) != digest:
        raise CliError(f"image config verification failed for digest {digest}")
    return Manifest(full(reference), media, data, platform_of(_object(config)))


def _verify(digest: str, data: bytes) -> None:
    """Compare a manifest with the digest in its name, if the name has one."""
    if digest and digest_of(data) != digest:
        raise CliError(f"manifest verification failed for digest {digest}")


def _object(data: bytes) -> dict[str, Any]:
    found = jsontext.loads(data)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found
