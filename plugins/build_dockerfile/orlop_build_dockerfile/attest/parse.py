"""The attestations that a client requests: `attest:provenance=mode=max`, `attest:sbom=generator=IMAGE` among the options of
a frontend, and BUILDKIT_ATTEST_* among the build arguments (buildkit frontend/attestations/parse.go). Pure functions."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import msgspec

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["Wanted", "parse"]

_ATTEST, _ARGUMENT = "attest:", "build-arg:BUILDKIT_ATTEST_"
_SCANNER = "docker/buildkit-syft-scanner:stable-1"
_INVALID = 3


class Wanted(msgspec.Struct, frozen=True):
    """The attributes of each kind of attestation; None if it was not requested. `only_inline`: the attestation was requested
    by default by buildx. Such attestations are only pushed, or exported together with other attestations."""

    sbom: Mapping[str, str] | None = None
    provenance: Mapping[str, str] | None = None

    @property
    def only_inline(self) -> bool:
        inline = (self.provenance or {}).get("inline-only", "")
        return self.sbom is None and (self.provenance is None or inline in ("1", "t", "T", "true", "TRUE", "True"))

    def __bool__(self) -> bool:
        return self.sbom is not None or self.provenance is not None


def parse(options: Mapping[str, str]) -> Wanted:
    """Raises `BuildFailed`."""
    found: dict[str, Mapping[str, str]] = {}
    for name, value in options.items():
        prefix = next((each for each in (_ATTEST, _ARGUMENT) if name.startswith(each)), None)
        if prefix is None:
            continue
        kind = name.removeprefix(prefix).lower()
        if kind not in ("sbom", "provenance"):
            raise BuildFailed(f"unknown attestation type {kind[:100]!r}", code=_INVALID)
        attributes = _attributes(kind, value)
        disabled = attributes.get("disabled", "") in ("1", "t", "T", "true", "TRUE", "True") or value == "false"
        if not disabled:
            found[kind] = attributes
    mode = found.get("provenance", {}).get("mode", "max")
    if mode not in ("min", "max", "full"):
        raise BuildFailed(f"invalid mode {mode[:100]!r}", code=_INVALID)
    return Wanted(found.get("sbom"), found.get("provenance"))


def _attributes(kind: str, text: str) -> dict[str, str]:
    found = {"generator": _SCANNER} if kind == "sbom" else {}
    try:
        fields = next(csv.reader([text], strict=True), []) if text else []
    except csv.Error as error:
        raise BuildFailed(f"failed to parse {kind}: {error}", code=_INVALID) from None
    for field in fields:
        name, _, value = field.partition("=")
        found[name] = value
    return found
