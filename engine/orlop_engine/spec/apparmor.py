"""AppArmor: the choice of a container's profile, and the text of the default profile (Docker's, in
`apparmor-default.profile`). This module does no I/O; `engine.containers.apparmor_profile` loads the profile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

__all__ = ["DEFAULT", "UNCONFINED", "chosen", "is_loaded", "text"]

DEFAULT = "docker-default"
"""Docker's name for its profile. Requests use this name, and a dockerd on the same host loads the same rules under this
name."""
UNCONFINED = "unconfined"


def chosen(asked: str, privileged: bool) -> str:
    """The profile of a container on a host with AppArmor. `asked` is the value of its `apparmor=` option, or ""."""
    if asked in ("", "runtime/default"):
        return UNCONFINED if privileged else DEFAULT
    return asked


def is_loaded(profiles: str, name: str) -> bool:
    """Whether a profile is loaded. `profiles` is the kernel's list, with lines like "docker-default (enforce)"."""
    return any(line.rpartition(" (")[0] == name for line in profiles.splitlines())


@cache
def _template() -> str:
    return Path(__file__).with_name("apparmor-default.profile").read_text()


def text(exists: Callable[[str], bool], daemon: str) -> str:
    """The text of the default profile for this host. `exists` tests a path below /etc/apparmor.d; `daemon` is the name of
    the profile of the daemon's process."""
    head = ["abi <abi/3.0>,"] if exists("abi/3.0") else []
    head.append("#include <tunables/global>" if exists("tunables/global") else "@{PROC}=/proc/")
    inner = "  #include <abstractions/base>" if exists("abstractions/base") else ""
    words = {"@HEAD@": "\n".join(head), "@INNER@": inner, "@NAME@": DEFAULT, "@DAEMON@": daemon or UNCONFINED}
    made = _template()
    for word, value in words.items():
        made = made.replace(word, value)
    return made
