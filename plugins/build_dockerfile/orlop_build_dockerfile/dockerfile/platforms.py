"""Platforms: "linux/arm64/v8" and other spellings, in the form that images have (containerd/platforms)."""

from __future__ import annotations

import re

import msgspec

from orlop_build_dockerfile.pb import ops_pb2

from .goformat import quote

__all__ = ["Platform", "parse_platform"]

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.-]*)((?:\+[A-Za-z0-9_.-]+)*)\))?")
_SYSTEMS = set(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris windows zos".split()
)
_ARCHITECTURES = set(
    "386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 mips64p32le "
    "ppc riscv riscv64 s390 s390x sparc sparc64 wasm".split()
)


class Platform(msgspec.Struct, frozen=True):
    """A platform. `str()` returns a text such as "linux/arm/v7"."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @property
    def full(self) -> str:
        """The text with the version of the system: "windows(10.0.17763)/amd64"."""
        if not self.os_version and not self.os_features:
            return str(self)
        version = "+".join((self.os_version, *self.os_features))
        return "/".join(part for part in (f"{self.os}({version})", self.architecture, self.variant) if part)

    def normalized(self) -> Platform:
        architecture, variant = _normalized_architecture(self.architecture, self.variant)
        return msgspec.structs.replace(self, os=_normalized_os(self.os), architecture=architecture, variant=variant)

    def message(self) -> ops_pb2.Platform:
        return ops_pb2.Platform(
            OS=self.os,
            Architecture=self.architecture,
            Variant=self.variant,
            OSVersion=self.os_version,
            OSFeatures=list(self.os_features),
        )


def _normalized_os(name: str) -> str:
    name = name.lower()
    return "darwin" if name == "macos" else name


def _normalized_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    if architecture in ("i386", "i486", "i586", "i686"):
        return "386", ""
    if architecture in ("x86_64", "x86-64", "amd64"):
        return "amd64", "" if variant == "v1" else variant
    if architecture in ("aarch64", "arm64"):
        return "arm64", "" if variant in ("8", "v8") else "v9" if variant in ("9", "9.0", "v9.0") else variant
    if architecture == "armhf":
        return "arm", "v7"
    if architecture == "armel":
        return "arm", "v6"
    if architecture == "arm":
        return "arm", "v7" if variant in ("", "7") else f"v{variant}" if variant in ("5", "6", "8") else variant
    return architecture, variant


def parse_platform(text: str, default: Platform | None = None) -> Platform:
    """Parse a platform. If the text is only a system or an architecture, `default` provides the other part. Raises
    `ValueError` with containerd's message."""
    default = default or Platform("linux", "amd64")
    if "*" in text:
        raise ValueError(f"{quote(text)}: wildcards not yet supported: invalid argument")
    parts = text.split("/")
    for number, part in enumerate(parts):
        if not (_OS if number == 0 else _COMPONENT).fullmatch(part):
            pattern = "^[A-Za-z0-9_.-]+(?:\\(([A-Za-z0-9_.+-]+)\\))?$" if number == 0 else "^[A-Za-z0-9_.-]+$"
            what = "OSAndVersion specifier component" if number == 0 else "platform specifier component"
            verb = "an invalid OS component" if number == 0 else "an invalid component"
            raise ValueError(
                f"{quote(part)} is {verb} of {quote(text)}: {what} must match {quote(pattern)}: invalid argument"
            )
    match = _OS.fullmatch(parts[0])
    assert match is not None
    version, features = match[2] or "", tuple(filter(None, (match[3] or "").split("+")))
    os = _normalized_os(match[1])
    if len(parts) == 1:
        if os in _SYSTEMS:
            return Platform(os, default.architecture, default.variant, version, features)
        architecture, variant = _normalized_architecture(parts[0], "")
        if architecture in _ARCHITECTURES:
            return Platform(default.os, architecture, "" if variant == "v7" and architecture == "arm" else variant)
        raise ValueError(f"{quote(parts[0])}: unknown operating system or architecture: invalid argument")
    if len(parts) > 3:
        raise ValueError(f"{quote(text)}: cannot parse platform specifier: invalid argument")
    architecture, variant = _normalized_architecture(parts[1], parts[2] if len(parts) == 3 else "")
    if architecture == "arm" and variant == "v7" and len(parts) == 2:
        variant = ""
    return Platform(os, architecture, variant, version, features)
