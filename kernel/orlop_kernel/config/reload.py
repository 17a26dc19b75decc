"""What a reload would do: compare two configurations, sort the differences. Pure; the daemon applies the plan.

The new configuration is the whole truth: a key taken out of the file goes back to its default. (dockerd keeps the old
value of most such keys until a restart, which nobody can see from the file.)
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .model import Config
from .policy import RELOADABLE

__all__ = ["ReloadPlan", "plan", "reload_attributes"]


class ReloadPlan(NamedTuple):
    """`config` is the running configuration with the reloadable keys of the new one; `applied` are the keys that change,
    `needs_restart` those that differ and stay as they are."""

    config: Config
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def plan(running: Config, wanted: Config) -> ReloadPlan:
    changed = {
        key: field
        for field, key in zip(Config.__struct_fields__, Config.__struct_encode_fields__, strict=True)
        if getattr(running, field) != getattr(wanted, field)
    }
    applied = sorted(key for key in changed if key in RELOADABLE)
    config = msgspec.structs.replace(running, **{changed[key]: getattr(wanted, changed[key]) for key in applied})
    return ReloadPlan(config, tuple(applied), tuple(sorted(changed.keys() - RELOADABLE)))


def reload_attributes(config: Config) -> dict[str, str]:
    """The attributes of the daemon's `reload` event: every reloadable value as text, as dockerd gives them."""
    found = {}
    for field, key in zip(Config.__struct_fields__, Config.__struct_encode_fields__, strict=True):
        if key in RELOADABLE and key != "proxies":
            value = getattr(config, field)
            found[key] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return found
