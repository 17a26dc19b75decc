"""Compares two configurations and computes what a reload changes. Pure; the daemon applies the plan.

The new file is complete: a key removed from it returns to its default. (dockerd keeps the old value of most such keys until
a restart, so its file may not show the value in use.)
"""

from __future__ import annotations

from typing import NamedTuple

from .keys import replaced
from .load import Loaded
from .model import Config

__all__ = ["ReloadPlan", "plan"]


class ReloadPlan(NamedTuple):
    """`loaded` is the configuration after the reload: the running configuration with the reloadable keys of the new file,
    each with its origin. `applied` are the keys that change, `unchanged` the keys that are set and do not change,
    `needs_restart` the keys with a new value that a reload does not apply."""

    loaded: Loaded
    applied: tuple[str, ...]
    unchanged: tuple[str, ...]
    needs_restart: tuple[str, ...]

    @property
    def config(self) -> Config:
        return self.loaded.config


def plan(running: Loaded, wanted: Loaded) -> ReloadPlan:
    before, after = running.config.items(), wanted.config.items()
    changed = [key for key in {**before, **after} if key not in before or key not in after or before[key] != after[key]]
    applied = [key for key in changed if key in running.config.reloadable & wanted.config.reloadable]
    waiting = [key for key in changed if key not in applied]
    config = replaced(running.config, wanted.config, applied)
    origins = {key: origin for key, origin in wanted.origins.items() if key not in waiting}
    origins.update({key: running.origins[key] for key in waiting if key in running.origins})
    return ReloadPlan(
        Loaded(config, wanted.file, wanted.warnings, origins),
        tuple(applied),
        tuple(sorted(wanted.origins.keys() - set(changed))),
        tuple(waiting),
    )
