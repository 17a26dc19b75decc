"""Commands that only docker has. The error message says so, because the suggestion of a similar command is misleading."""

from __future__ import annotations

from orlop_cli.daemon import hosts

# Commands that the daemon supports, or that need no daemon, by group.
_CLIENT = {
    "orlop": {"checkpoint", "login", "logout", "manifest", "search", "trust"},
}
_PLUGINS = {"buildx": "docker-buildx", "compose": "docker-compose"}
# Commands that Orlop's daemon does not support either.
_DAEMON = {
    "orlop": {"node", "plugin", "secret", "service", "stack", "swarm"},
    "config": {"create", "inspect", "ls", "rm"},
    "volume": {"update"},
}


def message(group: str, name: str) -> str:
    """The message for a command of a group; "" if docker has no such command."""
    path = name if group == "orlop" else f"{group} {name}"
    if group == "orlop" and name in _PLUGINS:
        return (
            f"'{name}' is a plugin of docker's client that is not installed (Debian: {_PLUGINS[name]}). "
            "orlop looks for plugins where docker does, in ~/.docker/cli-plugins for example"
        )
    if name in _CLIENT.get(group, ()):
        return (
            f"'{path}' is a command of docker that orlop does not have. "
            f"Use the docker client with Orlop:  DOCKER_HOST={hosts.DEFAULT_HOST}"
        )
    if name in _DAEMON.get(group, ()):
        return f"'{path}' is a command of docker that Orlop does not support, neither in the client nor in the daemon."
    return ""
