"""The builder's key of daemon.json: `builder`, with dockerd's members."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from orlop_kernel.config import Config, Keys, Problem
from orlop_sdk import Register, hookimpl
from orlop_sdk.base import ConfigBase

__all__ = ["BuildKeys", "Collection", "Entitlements", "History", "Rule"]


class Rule(ConfigBase, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An entry of `policy`. `keep_storage` is the older name of `reserved_space`."""

    all: bool = False
    filter: tuple[str, ...] = ()
    keep_storage: str = ""
    reserved_space: str = ""
    max_used_space: str = ""
    min_free_space: str = ""


class Collection(ConfigBase, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`gc`: removal of records that were not used for long. `default_keep_storage` is the older name of
    `default_reserved_space`."""

    enabled: bool = True
    default_keep_storage: str = ""
    default_reserved_space: str = ""
    default_max_used_space: str = ""
    default_min_free_space: str = ""
    policy: tuple[Rule, ...] | None = None


class Entitlements(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """The entitlements that builds may request. The defaults are the same as in dockerd."""

    network_host: bool = True
    security_insecure: bool = False
    device: bool = True


class History(ConfigBase, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A record of a build is deleted when it is older than `max_age` and not one of the last `max_entries`."""

    max_age: str = "48h"
    max_entries: int = 50


class Builder(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    gc: Collection = Collection()
    entitlements: Entitlements = Entitlements()
    history: History = History()


class BuildKeys(Keys, frozen=True, kw_only=True):
    builder: Builder = Builder()

    HELP: ClassVar = {
        "builder": "Limits of the build cache (gc), privileges of builds (entitlements), limits of the build history"
    }

    def problems(self, config: Config) -> Iterator[Problem]:
        """See Keys."""
        if self.builder == Builder():
            return
        from .daemon.policies import PolicyError, history_limits, policies

        try:
            policies(self.builder.gc, config.data_root)
            history_limits(self.builder.history)
        except PolicyError as error:
            yield Problem(str(error), ("builder",))


@hookimpl
def orlop_keys(register: Register) -> None:
    register("build", BuildKeys)
