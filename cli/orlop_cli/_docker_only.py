"""Commands that only docker has: the message says what to use instead. A similar name would mislead."""

from __future__ import annotations

_PLUGINS = {"buildx": "docker-buildx", "compose": "docker-compose"}
_COMPOSE = "Orlop has no swarm mode: use `orlop compose` (docker's plugin) for services on this machine"
_MOUNT = "Orlop has no swarm mode: use `orlop compose` (docker's plugin), or a read-only bind mount of a file (--mount)"
_MACHINES = (
    "Orlop has no swarm mode: use a context for each machine (orlop context create NAME --docker host=ssh://USER@HOST)"
)
_ALTERNATIVES = {
    "orlop": {
        "node": _MACHINES,
        "plugin": "plugins of Orlop are Python packages, which are installed with pip (docs/plugins.md)",
        "secret": _MOUNT,
        "service": _COMPOSE,
        "stack": _COMPOSE,
        "swarm": _MACHINES,
        "trust": "use cosign, or registry-rules in daemon.json, which can require digests (docs/registries.md)",
    },
    "config": dict.fromkeys(("create", "inspect", "ls", "rm"), _MOUNT),
    "volume": {"update": "it changes cluster volumes of a swarm, which Orlop does not have; use a new volume"},
}
"""What to use instead, by group and command."""


def message(group: str, name: str) -> str:
    """The message for a command of a group; "" if docker has no such command."""
    path = name if group == "orlop" else f"{group} {name}"
    if group == "orlop" and name in _PLUGINS:
        return (
            f"'{name}' is a plugin of docker's client that is not installed (Debian: {_PLUGINS[name]}). "
            "orlop looks for plugins where docker does, in ~/.docker/cli-plugins for example"
        )
    instead = _ALTERNATIVES.get(group, {}).get(name)
    return f"'{path}' is a command that only docker has: {instead}." if instead else ""
