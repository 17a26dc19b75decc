"""Compares two configurations and computes what a reload changes. Pure; the daemon applies the plan.

The new file is complete: a key removed from it returns to its default. (dockerd keeps the old value of most such keys until
a restart, so that the file does not show the value in use.)
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import msgspec

from .load import Loaded
from .model import Config
from .policy import RELOADABLE

__all__ = ["ReloadPlan", "plan", "reload_attributes"]

_FIELDS = dict(zip(Config.__struct_encode_fields__, Config.__struct_fields__, strict=True))


class ReloadPlan(NamedTuple):
    """`loaded` is the configuration after the reload: the running one with the reloadable keys of the new one, each with its
    origin. `applied` are the keys that change, `unchanged` those that are set and stay the same, `needs_restart` those that
    differ but are not applied."""

    loaded: Loaded
    applied: tuple[str, ...]
    unchanged: tuple[str, ...]
    needs_restart: tuple[str, ...]

    @property
    def config(self) -> Config:
        return self.loaded.config


def plan(running: Loaded, wanted: Loaded) -> ReloadPlan:
    before, after = running.config, wanted.config
    changed = [key for key, field in _FIELDS.items() if getattr(before, field) != getattr(after, field)]
    applied = [key for key in changed if key in RELOADABLE]
    waiting = [key for key in changed if key not in RELOADABLE]
    config = msgspec.structs.replace(before, **{_FIELDS[key]: getattr(after, _FIELDS[key]) for key in applied})
    origins = {key: origin for key, origin in wanted.origins.items() if key not in waiting}
    origins.update({key: running.origins[key] for key in waiting if key in running.origins})
    return ReloadPlan(
        Loaded(config, wanted.file, wanted.warnings, origins),
        tuple(applied),
        tuple(sorted(wanted.origins.keys() - set(changed))),
        tuple(waiting),
    )


def _text(value: Any) -> str:
    """As Go prints it: maps of booleans by %v, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and all(isinstance(item, bool) for item in value.values()):
        return "map[" + " ".join(f"{key}:{str(item).lower()}" for key, item in sorted(value.items())) + "]"
    return msgspec.json.encode(value).decode()


_OMITTED = frozenset({"log-opts", "proxies"})
"""dockerd leaves both out of the event, and both may hold passwords."""


def reload_attributes(config: Config) -> dict[str, str]:
    """The attributes of the daemon's `reload` event: every reloadable value as text, in dockerd's format."""
    found = {key: _text(getattr(config, _FIELDS[key])) for key in _FIELDS if key in RELOADABLE - _OMITTED}
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {
        **found,
        "allow-nondistributable-artifacts": "[]",
        "default-cgroupns-mode": config.default_cgroupns_mode or ("private" if unified else "host"),
        "default-shm-size": str(config.shm_bytes),
        "runtimes": " ".join(f"{name}:{entry.path}" for name, entry in sorted(config.runtimes.items())),
    }
