"""Checks the attributes of exporters of images ("moby", "image", "docker", "oci"). All functions are pure.

Names and defaults are the same as in BuildKit (exporter/containerimage/exptypes/keys.go).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from orlop_build_dockerfile.contracts import BuildFailed, Export, LayerForm
from orlop_build_dockerfile.dockerfile.references import parse_reference

__all__ = ["Annotations", "ImageOptions", "read_epoch", "read_flag", "read_form", "read_options"]

_KEY = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_/-]+)\])?\.(\S+)")
_KINDS = ("index", "index-descriptor", "manifest", "manifest-descriptor")
_MAX_EPOCH = 1 << 40
_INVALID = 3


class Annotations(msgspec.Struct, frozen=True):
    """Annotations as (kind, platform, key): value. The platform "" means all platforms."""

    given: Mapping[tuple[str, str, str], str] = {}

    def of(self, kind: str, platform: str = "") -> dict[str, str]:
        """The annotations of an index or a manifest, or of its descriptor ("manifest-descriptor")."""
        wanted = ("",) if kind.startswith("index") else dict.fromkeys(("", platform))
        return {key: value for where in wanted for (k, p, key), value in self.given.items() if (k, p) == (kind, where)}

    @property
    def platforms(self) -> set[str]:
        return {platform for _, platform, _ in self.given if platform}

    @property
    def need_oci(self) -> bool:
        """Whether there are annotations that Docker's formats cannot store."""
        return any(kind != "manifest" for kind, _, _ in self.given)

    @property
    def need_index(self) -> bool:
        return any(kind.startswith("index") for kind, _, _ in self.given)


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`epoch` is SOURCE_DATE_EPOCH. `by_digest`: push manifests without a tag. `canonical`: also give the stored image the
    names with the digest of its manifest or index. `inline`: also add attestations that were only requested by default."""

    names: tuple[str, ...] = ()
    form: LayerForm = LayerForm()
    oci: bool = False
    push: bool = False
    by_digest: bool = False
    store: bool = True
    tar: bool = True
    inline: bool = False
    canonical: bool = False
    epoch: int | None = None
    annotations: Annotations = Annotations()

    @property
    def is_plain(self) -> bool:
        """Whether the client requests only an image in the daemon's store, with layers in any form."""
        canonical = self.canonical and self.names
        return not self.push and not canonical and not self.annotations.given and self.form == LayerForm()


def read_flag(attributes: Mapping[str, str], key: str, default: bool) -> bool:
    text = attributes.get(key)
    if text is None:
        return default
    if text in ("", "1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise BuildFailed(f"non-bool value specified for {key}: {text[:100]!r}", code=_INVALID)


def read_form(attributes: Mapping[str, str], *, latest: int | None = None) -> LayerForm:
    """The form of layers, in an image or in an exported cache."""
    kind = attributes.get("compression", "")
    if kind not in ("", "gzip", "zstd", "uncompressed"):
        raise BuildFailed(f"unsupported compression type {kind[:100]}", code=_INVALID)
    level, text = -1, attributes.get("compression-level", "")
    if text:
        highest = 22 if kind == "zstd" else 9
        if not text.isdecimal() or len(text) > 2 or int(text) > highest:
            raise BuildFailed(f"invalid compression-level {text[:100]!r}: 0 to {highest}", code=_INVALID)
        level, kind = int(text), kind or "gzip"
    return LayerForm(kind, level, read_flag(attributes, "force-compression", False), latest)


def read_options(
    export: Export, result: Mapping[str, bytes], frontend: Mapping[str, str], platforms: frozenset[str]
) -> ImageOptions:
    """`result` is the metadata of the result, in which a frontend may also set annotations. `frontend` are the options of
    the frontend. Raises `BuildFailed`."""
    attributes, metadata = export.attributes, result
    name = attributes.get("name", "")
    if name == "*":
        name = metadata.get("image.name", b"").decode("utf-8", "replace")
    names = tuple(dict.fromkeys(_normalized(each.strip()) for each in name.split(",") if each.strip()))
    given = _annotations({**{key: value.decode("utf-8", "replace") for key, value in metadata.items()}, **attributes})
    for platform in sorted(given.platforms - platforms):
        raise BuildFailed(f"invalid annotation: no platform {platform} found in source", code=_INVALID)
    epoch = read_epoch(attributes, frontend)
    rewrite = read_flag(attributes, "rewrite-timestamp", False)
    form = read_form(attributes, latest=epoch if rewrite else None)
    push, by_digest = read_flag(attributes, "push", False), read_flag(attributes, "push-by-digest", False)
    for name in names if push and by_digest else ():
        reference = parse_reference(name)
        if reference.tag or reference.digest:
            raise BuildFailed(f"failed to push {name}: can't push tagged ref {name} by digest", code=_INVALID)
    oci = read_flag(attributes, "oci-mediatypes", export.kind == "oci")
    return ImageOptions(
        names=names,
        form=form,
        oci=oci or given.need_oci or form.kind == "zstd",
        push=push,
        by_digest=by_digest,
        store=read_flag(attributes, "store", True),
        tar=read_flag(attributes, "tar", True),
        inline=read_flag(attributes, "attestation-inline", push),
        canonical=read_flag(attributes, "name-canonical", False),
        epoch=epoch,
        annotations=given,
    )


def _normalized(name: str) -> str:
    """The name in the form that clients receive: with its registry, and without an implied tag."""
    try:
        return str(parse_reference(name))
    except ValueError as error:
        raise BuildFailed(f"failed to parse target name {name!r}: {error}", code=_INVALID) from None


def read_epoch(attributes: Mapping[str, str], frontend: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH, as an attribute of the exporter or as a build argument."""
    text = attributes.get("source-date-epoch", frontend.get("build-arg:SOURCE_DATE_EPOCH", ""))
    if not text:
        return None
    if not text.isdecimal() or int(text) > _MAX_EPOCH:
        raise BuildFailed(f"invalid SOURCE_DATE_EPOCH value: {text[:100]}", code=_INVALID)
    return int(text)


def _annotations(attributes: Mapping[str, str]) -> Annotations:
    found: dict[tuple[str, str, str], str] = {}
    for name, value in attributes.items():
        match = _KEY.fullmatch(name)
        if match is None:
            continue
        kind = match[1] or "manifest"
        if kind not in _KINDS:
            raise BuildFailed(f"unrecognized annotation type {kind}", code=_INVALID)
        found[kind, match[2] or "", match[3]] = value
    return Annotations(found)
