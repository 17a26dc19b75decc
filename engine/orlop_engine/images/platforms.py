"""Platforms: parses, normalises and ranks `os/arch/variant` like containerd's `platforms` package. This module does no
I/O."""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from orlop_sdk import InvalidParameter

__all__ = ["Platform", "acceptable", "acceptable_here", "amd64_level", "default", "host", "normalise", "parse", "rank"]

_PART = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_ARCHITECTURES = {
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}
_KNOWN = {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"}
_LEVELS = (
    ("v2", frozenset(("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"))),
    ("v3", frozenset(("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"))),
    ("v4", frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))),
)
_ARM = ("v8", "v7", "v6", "v5")


@dataclass(frozen=True, slots=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def normalise(value: Platform) -> Platform:
    """The canonical spelling of a platform: arm64/v8 is arm64, arm is arm/v7, amd64/v1 is amd64."""
    os, variant = value.os.lower(), value.variant.lower()
    architecture, implied = _ARCHITECTURES.get(value.architecture.lower(), (value.architecture.lower(), ""))
    variant = variant or implied
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    elif architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    elif architecture == "amd64" and variant == "v1":
        variant = ""
    return Platform("darwin" if os == "macos" else os, architecture, variant)


def amd64_level(flags: Collection[str]) -> str:
    """The variant of an amd64 processor, derived from its flags in /proc/cpuinfo (x86-64 psABI, "microarchitecture levels");
    "" for the first level."""
    reached = ""
    for level, needed in _LEVELS:
        if not needed.issubset(flags):
            break
        reached = level
    return reached


def default() -> Platform:
    """The platform of images that are created on this host. This platform has no variant, so that every processor of the
    architecture can run the images."""
    return normalise(Platform("linux", machine.machine()))


@cache
def host() -> Platform:
    """The platform of this host, with the highest variant that its processor runs, as in dockerd."""
    found = default()
    if found.architecture != "amd64":
        return found
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return found
    return Platform(found.os, found.architecture, amd64_level(line.split()))


def parse(text: str) -> Platform:
    """Parse a platform in a request: `os[/arch[/variant]]`. A single word may be either an OS or an architecture."""
    parts = text.split("/")
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    for part in parts:
        if not _PART.fullmatch(part):
            raise InvalidParameter(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match '
                '"^[A-Za-z0-9_.-]+$": invalid argument'
            )
    here = default()
    if len(parts) > 1:
        return normalise(Platform(*parts))
    word = parts[0].lower()
    if word in ("linux", "windows", "freebsd", "darwin"):
        return Platform(word, here.architecture, here.variant)
    found = normalise(Platform(here.os, word))
    if found.architecture not in _KNOWN:
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    return found


def acceptable(wanted: Platform) -> list[Platform]:
    """The platforms whose programs a host with the platform `wanted` can run, best first."""
    wanted = normalise(wanted)
    result = [wanted]
    if wanted.architecture == "amd64":
        level = int(wanted.variant[1:]) if re.fullmatch(r"v[2-9]", wanted.variant) else 1
        result += [normalise(Platform(wanted.os, "amd64", f"v{n}")) for n in range(level - 1, 0, -1)]
        result.append(Platform(wanted.os, "386"))
    elif wanted.architecture == "arm64" and not wanted.variant:
        result += [Platform(wanted.os, "arm", variant) for variant in _ARM]
    elif wanted.architecture == "arm" and wanted.variant in _ARM:
        result += [Platform(wanted.os, "arm", variant) for variant in _ARM[_ARM.index(wanted.variant) + 1 :]]
    return result


@cache
def acceptable_here() -> tuple[Platform, ...]:
    """The platforms whose programs this host can run, best first."""
    return tuple(acceptable(host()))


def rank(wanted: Platform, offered: Platform) -> int | None:
    """How well `offered` matches `wanted`: 0 is an exact match, higher is worse, None is no match."""
    try:
        return acceptable(wanted).index(normalise(offered))
    except ValueError:
        return None
