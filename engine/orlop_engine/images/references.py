"""Image references: parses user input as Docker does (distribution/reference: grammar, normalising, familiar form).

This module does no I/O. A `Reference` is always normalised. It has a domain, and the path of an official image of Docker Hub
begins with `library/`.
"""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from orlop_sdk import InvalidParameter

__all__ = ["DEFAULT_TAG", "Reference", "is_digest", "parse", "parse_digest", "push_reference", "with_tag_or_digest"]

DEFAULT_DOMAIN, LEGACY_DOMAIN, LIBRARY = "docker.io", "index.docker.io", "library/"
DEFAULT_TAG = "latest"
_MAX_NAME, _MAX_TEXT = 255, 4096

_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[(?:[a-fA-F0-9:]+)\])(?::[0-9]+)?"
_PATH = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"\w[\w.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE_RE = re.compile(rf"({_DOMAIN})/({_PATH}(?:/{_PATH})*)(?::({_TAG}))?(?:@({_DIGEST}))?", re.ASCII)
_TAG_RE = re.compile(_TAG, re.ASCII)
_DIGEST_RE = re.compile(r"sha256:[0-9a-f]{64}")
_HEX_RE = re.compile(r"[0-9a-f]{64}")


class Reference(msgspec.Struct, frozen=True, order=True):
    """`domain/path[:tag][@digest]`. `str()` returns the full form, `familiar` the form that is shown to users."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(LIBRARY)
        if "/" not in short:
            return short
        # Omit the domain only if the result means the same image: "x.y/z" without "docker.io" would be the image "z" of the
        # host "x.y"
        return self.path if _split_domain(self.path) == (self.domain, self.path) else self.name

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix

    def __str__(self) -> str:
        return self.name + self._suffix

    @property
    def is_name_only(self) -> bool:
        return not self.tag and not self.digest

    def with_default_tag(self) -> Reference:
        return replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> Reference:
        if not _TAG_RE.fullmatch(tag):
            raise InvalidParameter("invalid tag format")
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        """The reference with only this digest. A tag is removed, as in dockerd's graph-driver stores, because the digest
        identifies the image."""
        return replace(self, tag="", digest=parse_digest(digest))


def is_digest(text: str) -> bool:
    return _DIGEST_RE.fullmatch(text) is not None


def parse_digest(text: str) -> str:
    """Check a digest of a supported kind: sha256 in lower-case hex."""
    if is_digest(text):
        return text
    algorithm, colon, value = text.partition(":")
    if not colon or not value:
        raise InvalidParameter("invalid checksum digest format")
    if algorithm != "sha256":
        raise InvalidParameter("unsupported digest algorithm")
    raise InvalidParameter("invalid checksum digest length" if len(value) != 64 else "invalid checksum digest format")


def image_id(text: str) -> str | None:
    """The full image ID if `text` is an image ID ("sha256:" is optional), otherwise None."""
    if is_digest(text):
        return text
    return f"sha256:{text}" if _HEX_RE.fullmatch(text) else None


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, LIBRARY + text
    if first == LEGACY_DOMAIN:
        first = DEFAULT_DOMAIN
    elif first != "localhost" and "." not in first and ":" not in first and first.lower() == first:
        first, rest = DEFAULT_DOMAIN, text
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = LIBRARY + rest
    return first, rest


def parse(text: str) -> Reference:
    """Parse and normalise a reference. Raises `InvalidParameter` with Docker's messages."""
    if _HEX_RE.fullmatch(text):
        raise InvalidParameter(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    if not text or len(text) > _MAX_TEXT:
        raise InvalidParameter("invalid reference format")
    domain, rest = _split_domain(text)
    remote = rest.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidParameter(f"invalid reference format: repository name ({remote}) must be lowercase")
    match = _REFERENCE_RE.fullmatch(f"{domain}/{rest}")
    if match is None:
        raise InvalidParameter("invalid reference format")
    domain, path, tag, digest = match.groups()
    if len(path) > _MAX_NAME:
        raise InvalidParameter(f"repository name must not be more than {_MAX_NAME} characters")
    return Reference(domain, path, tag or "", parse_digest(digest) if digest else "")


def with_tag_or_digest(name: str, tag: str) -> Reference:
    """The reference in the parameters `fromImage` (`name`) and `tag` of a pull. `tag` may be a digest, and overrides a tag
    or digest in `name`."""
    reference = parse(name.removesuffix(":"))
    if not tag:
        return reference.with_digest(reference.digest) if reference.digest else reference
    return reference.with_digest(tag) if is_digest(tag) else reference.with_tag(tag)


def push_reference(name: str, tag: str) -> Reference:
    """The reference in the parameters `name` and `tag` of a push. `tag` overrides a tag in `name`. Without a tag, the
    reference means all tags."""
    reference = parse(name)
    return reference.with_tag(tag) if tag else reference
