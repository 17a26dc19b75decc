"""Commands of docker that are not here: said as such, for a guess at what was meant would be a wrong one."""

from __future__ import annotations

from orlop_cli.daemon import hosts

# What the daemon serves, or what needs none: by group.
_CLIENT = {
    "orlop": {"buildx", "checkpoint", "compose", "context", "login", "logout", "manifest", "search", "trust"},
    "system": {"dial-stdio"},
}
# What Orlop's daemon has not either.
_DAEMON = {
    "orlop": {"build", "builder", "node", "plugin", "push", "save", "secret", "service", "stack", "swarm"},
    "config": {"create", "inspect", "ls", "rm"},
    "image": {"build", "push", "save"},
    "volume": {"update"},
}


def message(group: str, name: str) -> str:
    """What to say of a command of a group, empty if docker has none of that name."""
    path = name if group == "orlop" else f"{group} {name}"
    if name in _CLIENT.get(group, ()):
        return (
            f"'{path}' is a command of docker that orlop does not have. "
            f"The docker client works against Orlop too: DOCKER_HOST={hosts.DEFAULT_HOST}"
        )
    if name in _DAEMON.get(group, ()):
        hint = " buildx can, with a builder of its driver docker-container." if name in ("build", "builder") else ""
        return f"'{path}' is a command of docker that Orlop does not have, neither the client nor the daemon.{hint}"
    return ""
