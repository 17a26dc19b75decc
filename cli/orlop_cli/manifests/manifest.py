"""The manifest of an image in a list, and lists of such manifests, in the formats of docker's client."""

from __future__ import annotations

import base64
import hashlib

from orlop_cli._errors import CliError
from orlop_cli.manifests.layout import compact, indent
from orlop_cli.values import jsontext, references

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from orlop_cli.values.references import Reference

__all__ = [
    "MANIFEST_LIST",
    "MANIFEST_V2",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Manifest",
    "digest_of",
    "list_document",
    "named",
    "platform_of",
]

MANIFEST_V2 = "application/vnd.docker.distribution.manifest.v2+json"
MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_MEMBERS = {MANIFEST_V2: "SchemaV2Manifest", OCI_MANIFEST: "OCIManifest"}
_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


def named(text: str) -> Reference:
    """Parse a reference. The default tag is "latest", unless the reference has a digest. Raises CliError."""
    return references.parse(text).with_default_tag()


def full(reference: Reference) -> str:
    """The reference as docker writes it: with registry, tag and digest."""
    tag = f":{reference.tag}" if reference.tag else ""
    return f"{reference.domain}/{reference.path}{tag}" + (f"@{reference.digest}" if reference.digest else "")


def digest_of(data: bytes) -> str:
    """The digest of a manifest or blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def platform_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """The platform that an image configuration or an entry of a list contains, in docker's order."""
    present = {key: found[key] for key in _PLATFORM if found.get(key)}
    return {"architecture": "", "os": "", **present}


class Manifest:
    """A manifest of one image. `raw` is its content at the registry, `ref` its name there."""

    def __init__(self, ref: str, media: str, raw: bytes, platform: dict[str, Any] | None) -> None:
        self.ref, self.media, self.raw, self.platform = ref, media, raw, platform

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read a file of docker's client. Raises ValueError."""
        try:
            found = jsontext.loads(data)
            descriptor = found["Descriptor"]
            media = str(descriptor["mediaType"])
            # Files of clients before docker 23 do not contain `Raw`; their manifests are stored without blanks.
            text = base64.b64decode(found["Raw"]) if found.get("Raw") else jsontext.dumps(found[_MEMBERS[media]]).encode()
            return cls(str(found["Ref"]), media, text, descriptor.get("platform"))
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a manifest of an image: {error!r}") from None

    @property
    def reference(self) -> Reference:
        """The name at the registry."""
        return references.parse(self.ref)

    @property
    def descriptor(self) -> dict[str, Any]:
        """The descriptor: media type, digest, size, platform."""
        found = {"mediaType": self.media, "digest": digest_of(self.raw), "size": len(self.raw)}
        return {**found, "platform": self.platform} if self.platform is not None else found

    @property
    def blobs(self) -> list[str]:
        """The digests of the configuration and the layers. Raises CliError."""
        try:
            document = jsontext.loads(self.raw)
            return [str(part["digest"]) for part in (document["config"], *document["layers"])]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise CliError(f"the manifest of {self.ref} does not name its configuration and layers") from None

    def encode(self) -> str:
        """The content of docker's file, on one line."""
        parts = {
            "Ref": jsontext.dumps(self.ref),
            "Descriptor": jsontext.dumps(self.descriptor, compact=True),
            "Raw": jsontext.dumps(base64.b64encode(self.raw).decode()),
            _MEMBERS[self.media]: self.raw.decode(),
        }
        return compact("{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}")


def list_document(target: Reference, manifests: Sequence[Manifest]) -> tuple[str, str]:
    """The media type and the text of a list. Raises CliError if an image is at another registry."""
    entries = []
    for one in manifests:
        domain = one.reference.domain
        if domain != target.domain:
            raise CliError(
                f"cannot use source images from a different registry than the target image: {domain} != {target.domain}"
            )
        entry = {"mediaType": one.media, "size": len(one.raw), "digest": digest_of(one.raw)}
        entries.append({**entry, "platform": platform_of(one.platform or {})})
    media = OCI_INDEX if manifests and manifests[0].media == OCI_MANIFEST else MANIFEST_LIST
    document = {"schemaVersion": 2, "mediaType": media, "manifests": entries}
    return media, indent(compact(jsontext.dumps(document, ascii_only=False)), "   ")
