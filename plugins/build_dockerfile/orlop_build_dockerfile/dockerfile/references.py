"""Names of images (distribution/reference)."""

from __future__ import annotations

import re

import msgspec

__all__ = ["Reference", "parse_reference"]

_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9A-Fa-f]{32,}"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(rf"(?:({_DOMAIN})/)?({_PATH_PART}(?:/{_PATH_PART})*)(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
_ID = re.compile(r"[a-f0-9]{64}")
_LONGEST = 255


class Reference(msgspec.Struct, frozen=True):
    """`domain` and `path` are always set: "docker.io" and "library/busybox" for "busybox"."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return (
            f"{self.domain}/{self.path}" + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
        )

    @property
    def familiar(self) -> str:
        """The short form: "busybox" for "docker.io/library/busybox"."""
        name = str(self)
        if self.domain == "docker.io":
            name = name.removeprefix("docker.io/").removeprefix("library/")
        return name

    def tagged(self) -> Reference:
        """The reference, with the tag "latest" if it has neither a tag nor a digest."""
        return self if self.tag or self.digest else msgspec.structs.replace(self, tag="latest")

    def with_digest(self, digest: str) -> Reference:
        return msgspec.structs.replace(self, digest=digest)


def parse_reference(text: str) -> Reference:
    """Parse a reference. Raises `ValueError` with Docker's message."""
    if _ID.fullmatch(text):
        raise ValueError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    if len(text) > 1024:
        raise ValueError("invalid reference format")
    domain, slash, rest = text.partition("/")
    if not slash or not (set(domain) & set(".:") or domain == "localhost" or domain.lower() != domain):
        domain, rest = "docker.io", text
    elif domain == "index.docker.io":
        domain = "docker.io"
    if domain == "docker.io" and "/" not in rest:
        rest = f"library/{rest}"
    name = re.split(r"[:@]", rest, maxsplit=1)[0]
    if name.lower() != name:
        raise ValueError(f"invalid reference format: repository name ({name}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if match is None or match[1] is None:
        raise ValueError("invalid reference format")
    if len(match[1]) + 1 + len(match[2]) > _LONGEST:
        raise ValueError(f"repository name must not be more than {_LONGEST} characters")
    return Reference(match[1], match[2], match[3] or "", match[4] or "")
