"""Removes secrets from answers to read-only clients: values of environment variables and build arguments (unless the
listener shows them), and volume options, which may contain passwords. The names of variables stay. Decoded answers are
changed in place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

__all__ = ["HIDDEN", "READERS"]

HIDDEN = "(hidden)"
_STEP = re.compile(r"((?:^|#\(nop\)\s+)(?:ENV|ARG)\s).*", re.DOTALL)
_SHELL = r"(?= /bin/(?:ba|da|a)?sh(?: -\w+| pipefail)*? -\w*c )"
# The arguments end before a known shell. A value may also contain the path of a shell, so the last match counts.
_BUILD_ARGUMENTS = re.compile(rf"^((?:RUN )?\|\d+)(?: .*{_SHELL}| .*)", re.DOTALL)


def _environment(found: Any, show_env: bool) -> None:
    if not show_env and found.get("Config"):
        env = found["Config"].get("Env") or []
        found["Config"]["Env"] = [f"{text.partition('=')[0]}={HIDDEN}" for text in env]


def _container(found: Any, show_env: bool) -> None:
    _environment(found, show_env)
    for mount in found.get("HostConfig", {}).get("Mounts") or ():
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        _options(driver)


def _history(found: Any, show_env: bool) -> None:
    for layer in () if show_env else found:
        text = _STEP.sub(rf"\1{HIDDEN}", layer.get("CreatedBy") or "")
        layer["CreatedBy"] = _BUILD_ARGUMENTS.sub(rf"\1 {HIDDEN}", text)


def _attestations(found: Any, show_env: bool) -> None:
    """Remove build arguments from attestations, because a provenance contains them."""
    for each in () if show_env else found:
        each.pop("Statement", None)


def _options(found: Any) -> None:
    if found.get("Options"):
        found["Options"] = dict.fromkeys(found["Options"], HIDDEN)


def _volumes(found: Any, show_env: bool) -> None:
    for volume in found.get("Volumes") or ():
        _options(volume)


READERS: dict[str, Callable[[Any, bool], None]] = {
    "/containers/{id}/json": _container,
    "/images/{name}/json": _environment,
    "/images/{name}/history": _history,
    "/images/{name}/attestations": _attestations,
    "/volumes": _volumes,
    "/volumes/{name}": lambda found, show_env: _options(found),
}
"""Route -> the function that redacts an answer. Its second argument says whether environments are shown."""
