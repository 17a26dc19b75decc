"""Pushes a list to its registry, with the images that are in other repositories of the registry."""

from __future__ import annotations

from orlop_cli._errors import CliError
from orlop_cli.manifests.manifest import full, list_document
from orlop_cli.manifests.registry import NoTls, Refused, Registry, is_loopback

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orlop_cli.manifests.manifest import Manifest
    from orlop_cli.values.references import Reference

__all__ = ["push"]


def push(target: Reference, manifests: Sequence[Manifest], insecure: bool) -> Iterator[str]:
    """Push a list. Yields the lines that docker prints. Raises CliError."""
    for one in manifests:
        if not (one.platform and one.platform.get("os") and one.platform.get("architecture")):
            raise CliError(f"manifest {one.ref} must have an OS and Architecture to be pushed to a registry")
    media, text = list_document(target, manifests)
    registry = Registry(target.domain, insecure, plain=is_loopback(target.domain))
    elsewhere = [one for one in manifests if one.reference.path != target.path]
    try:
        for one in elsewhere:
            _mount(registry, target, one)
        for one in elsewhere:
            place = target._replace(tag="", digest=one.descriptor["digest"])
            yield f"Pushed ref {full(place)} with digest: {_put(registry, place, one.media, one.raw)}"
        yield _put(registry, target, media, text.encode())
    except NoTls as error:
        raise CliError(f"{error.message}; use --insecure to allow this") from None


def _mount(registry: Registry, target: Reference, manifest: Manifest) -> None:
    source = manifest.reference.path
    for digest in manifest.blobs:
        origin = f"{target.domain}/{source}@{digest}"
        try:
            mounted = registry.mount(target.path, digest, source)
        except Refused as error:
            raise CliError(f"failed to mount blob {origin} to {full(target)}: {error.message}") from None
        # Layers of Windows may be at another server, so the registry cannot mount them.
        if not mounted and (manifest.platform or {}).get("os") != "windows":
            raise CliError(f"error mounting {origin} to {full(target)}")


def _put(registry: Registry, target: Reference, media: str, body: bytes) -> str:
    try:
        return registry.put(target.path, target.digest or target.tag, media, body)
    except Refused as error:
        hint = f"\nTo push, you may need: orlop login {target.domain}" if error.status in (401, 403) else ""
        raise CliError(f"failed to put manifest {full(target)}: {error.message}{hint}") from None
