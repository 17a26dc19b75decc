"""In-toto statements about images (in-toto.io/Statement/v0.1), and package URLs. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from orlop_build_dockerfile.dockerfile.references import parse_reference

__all__ = ["SLSA", "SPDX", "Predicate", "purl", "statement"]

SLSA, SPDX = "https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"


class Predicate(msgspec.Struct, frozen=True):
    """`content` is JSON. `subjects`: names and digests of the subjects; None for the image itself under all its names.
    `names_layers`: in an image, the content also contains the layers of each step (`layers.add_layers`)."""

    type: str
    content: bytes
    subjects: tuple[msgspec.Raw, ...] | None = None
    names_layers: bool = False


def statement(predicate: Predicate, image: Sequence[tuple[str, str]]) -> bytes:
    """`image`: the names of the image, and its digest."""
    subjects: list[object] = list(predicate.subjects or ())
    if predicate.subjects is None:
        subjects = [_subject(name, digest) for name, digest in image]
    document = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": predicate.type,
        "subject": subjects,
        "predicate": msgspec.Raw(predicate.content),
    }
    return msgspec.json.encode(document)


def _subject(name: str, digest: str) -> dict[str, object]:
    algorithm, _, value = digest.partition(":")
    return {"name": name, "digest": {algorithm: value}}


def purl(name: str, platform: str, kind: str = "docker") -> str:
    """A package URL (github.com/package-url/purl-spec) of an image."""
    reference = parse_reference(name)
    path = msgspec.structs.replace(reference, tag="", digest="").familiar
    tag = reference.tag or ("" if reference.digest else "latest")
    qualifiers = [("digest", reference.digest)] if reference.digest else []
    if platform:
        qualifiers.append(("platform", platform))
    text = f"pkg:{kind}/" + "/".join(quote(part, safe=":") for part in path.split("/"))
    if tag:
        text += f"@{quote(tag, safe='')}"
    if qualifiers:
        text += "?" + "&".join(f"{key}={quote(value, safe=':')}" for key, value in qualifiers)
    return text
