"""AppArmor: which profile a container's processes get, and the text of the default one (Docker's, data in
`apparmor-default.profile`). Pure; loading it is `engine.containers.confine`'s."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files

__all__ = ["DEFAULT", "UNCONFINED", "chosen", "is_loaded", "text"]

DEFAULT = "docker-default"
"""Docker's name: requests name it, and a dockerd beside us loads the same rules under it."""
UNCONFINED = "unconfined"


def chosen(asked: str, privileged: bool) -> str:
    """The profile of a container on a host with AppArmor. `asked` is its `apparmor=`, "" for none."""
    if asked in ("", "runtime/default"):
        return UNCONFINED if privileged else DEFAULT
    return asked


def is_loaded(profiles: str, name: str) -> bool:
    """`profiles` is the kernel's list: "docker-default (enforce)" a line."""
    return any(line.rpartition(" (")[0] == name for line in profiles.splitlines())


@cache
def _template() -> str:
    return files(__package__).joinpath("apparmor-default.profile").read_text()


def text(exists: Callable[[str], bool], daemon: str) -> str:
    """The default profile for this host. `exists` looks below /etc/apparmor.d, `daemon` is the daemon's own profile."""
    head = ["abi <abi/3.0>,"] if exists("abi/3.0") else []
    head.append("#include <tunables/global>" if exists("tunables/global") else "@{PROC}=/proc/")
    inner = "  #include <abstractions/base>" if exists("abstractions/base") else ""
    words = {"@HEAD@": "\n".join(head), "@INNER@": inner, "@NAME@": DEFAULT, "@DAEMON@": daemon or UNCONFINED}
    made = _template()
    for word, value in words.items():
        made = made.replace(word, value)
    return made
