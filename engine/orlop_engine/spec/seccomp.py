"""Seccomp: convert the default profile (Docker's, in `seccomp-default.json`) to the form of the OCI spec, for this machine
and a set of capabilities.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from orlop_sdk import InvalidParameter

__all__ = ["default", "from_profile"]

# The first table maps the machine names of os.uname to Go's architecture names, which profiles use in includes/excludes. The
# second table maps Go's names to libseccomp's names.
_GO_ARCH = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}
_SCMP_ARCH = {
    "amd64": "SCMP_ARCH_X86_64",
    "arm64": "SCMP_ARCH_AARCH64",
    "arm": "SCMP_ARCH_ARM",
    "ppc64le": "SCMP_ARCH_PPC64LE",
    "s390x": "SCMP_ARCH_S390X",
    "riscv64": "SCMP_ARCH_RISCV64",
}


def _kernel() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _matches(rule: dict[str, Any], capabilities: frozenset[str], arch: str) -> bool:
    wanted = rule.get("includes") or {}
    refused = rule.get("excludes") or {}
    if wanted.get("arches") and arch not in wanted["arches"]:
        return False
    if wanted.get("caps") and not capabilities.issuperset(wanted["caps"]):
        return False
    if minimum := wanted.get("minKernel"):
        major, minor = (int(part) for part in minimum.split(".")[:2])
        if _kernel() < (major, minor):
            return False
    return arch not in (refused.get("arches") or ()) and not capabilities.intersection(refused.get("caps") or ())


def from_profile(profile: dict[str, Any], capabilities: Iterable[str]) -> dict[str, Any]:
    """Convert a profile in Docker's format. Rules for other machines, kernels and capabilities are omitted."""
    arch = _GO_ARCH.get(os.uname().machine, os.uname().machine)
    native = _SCMP_ARCH.get(arch, "")
    held = frozenset(capabilities)
    spec: dict[str, Any] = {"defaultAction": profile["defaultAction"]}
    for key in ("defaultErrnoRet", "flags", "listenerPath", "listenerMetadata"):
        if profile.get(key) is not None:
            spec[key] = profile[key]
    if profile.get("architectures") and profile.get("archMap"):
        raise ValueError("both 'architectures' and 'archMap' are specified, use either")
    if profile.get("architectures"):
        spec["architectures"] = list(profile["architectures"])
    for entry in profile.get("archMap") or ():
        if entry["architecture"] == native:
            spec["architectures"] = [native, *(entry.get("subArchitectures") or ())]
    rules = []
    for rule in profile.get("syscalls") or ():
        if not _matches(rule, held, arch):
            continue
        if rule.get("name") and rule.get("names"):
            raise ValueError("a rule has both 'name' and 'names', use either")
        names = rule.get("names") or ([rule["name"]] if rule.get("name") else [])
        out: dict[str, Any] = {"names": names, "action": rule["action"]}
        if rule.get("errnoRet") is not None:
            out["errnoRet"] = rule["errnoRet"]
        if rule.get("args"):
            out["args"] = rule["args"]
        rules.append(out)
    spec["syscalls"] = rules
    return spec


@cache
def _builtin() -> dict[str, Any]:
    profile: dict[str, Any] = json.loads(Path(__file__).with_name("seccomp-default.json").read_bytes())
    return profile


@lru_cache(maxsize=64)
def default(capabilities: tuple[str, ...]) -> dict[str, Any]:
    """The built-in profile for a bounding set. Containers share the result, so it must not be modified."""
    return from_profile(_builtin(), capabilities)


def parse(text: str, capabilities: Iterable[str]) -> dict[str, Any]:
    """Convert a profile from a request (`seccomp=<json>`). Raises `InvalidParameter`."""
    try:
        profile = json.loads(text)
        return from_profile(profile, capabilities)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from None
