"""Image references (distribution/reference): `alpine`, `alpine:3`, `localhost:5000/a/b@sha256:...`."""

from __future__ import annotations

import re
from typing import NamedTuple

from orlop_cli._errors import CliError

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[A-Za-z][\w+.-]*:[0-9a-fA-F]{32,}")


class Reference(NamedTuple):
    """A reference. `name` is the short form (without docker.io/library/). `tag` and `digest` are "" if the reference does
    not contain them."""

    domain: str
    path: str
    tag: str
    digest: str

    @property
    def name(self) -> str:
        if self.domain != HUB:
            return f"{self.domain}/{self.path}"
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    @property
    def canonical(self) -> str:
        """The full name, with registry and with tag or digest."""
        tail = f"@{self.digest}" if self.digest else f":{self.tag}" if self.tag else ""
        return f"{self.domain}/{self.path}{tail}"

    def with_default_tag(self) -> Reference:
        return self if self.tag or self.digest else self._replace(tag="latest")


def parse(text: str) -> Reference:
    """Parse a reference. Raises CliError with Docker's message."""
    name, _, digest = text.partition("@")
    head, slash, last = name.rpartition("/")
    last, colon, tag = last.partition(":")
    name = head + slash + last
    domain, slash, path = name.partition("/")
    if not slash or not ("." in domain or ":" in domain or domain == "localhost" or domain != domain.lower()):
        domain, path = HUB, name
    if domain in (HUB, "index.docker.io"):
        domain, path = HUB, path if "/" in path else f"library/{path}"
    if path != path.lower():
        raise CliError(f"invalid reference format: repository name ({path}) must be lowercase")
    bad_tail = (colon and not _TAG.fullmatch(tag)) or ("@" in text and not _DIGEST.fullmatch(digest))
    if bad_tail or not all(_COMPONENT.fullmatch(part) for part in path.split("/")):
        raise CliError("invalid reference format")
    return Reference(domain, path, tag, digest)


def split_tag(text: str) -> tuple[str, str]:
    """Split REPOSITORY[:TAG] for queries that need both parts. The daemon validates them."""
    head, slash, last = text.rpartition("/")
    name, _, tag = last.partition(":")
    return head + slash + name, tag
