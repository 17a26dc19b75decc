"""Maps the keys of daemon.json to the plugins that declare them, and converts raw values to typed structs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from orlop_sdk.base import ConfigBase

from .errors import ConfigError
from .flags import FLAGS
from .model import Config, Keys, fields
from .policy import HINTS

__all__ = ["Schema", "replaced"]

_KERNEL = ""

Values = TypeVar("Values", bound=ConfigBase)


def _label(owner: str) -> str:
    return f'the plugin "{owner}"' if owner else "the kernel"


class Schema:
    """The keys and flags of the kernel, and the keys and flags of plugins, by the plugin's name. Raises `ConfigError` when
    two plugins declare the same key or flag."""

    def __init__(self, parts: Mapping[str, type[Keys]]) -> None:
        self._parts = dict(parts)
        self.owners: dict[str, str] = dict.fromkeys(Config.__struct_encode_fields__, _KERNEL)
        del self.owners["parts"]
        for name, keys in parts.items():
            for key in keys.__struct_encode_fields__:
                if key in self.owners:
                    both = f"{_label(self.owners[key])} and {_label(name)}"
                    raise ConfigError(f"the key {key} is declared by both {both}; remove one plugin from daemon.json")
                self.owners[key] = name
        self.flags = {flag.name: flag for flag in FLAGS}
        for name, keys in parts.items():
            for flag in keys.FLAGS:
                if flag.name in self.flags:
                    raise ConfigError(f"the flag --{flag.name} of {_label(name)} is also declared by another plugin")
                self.flags[flag.name] = flag

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> Schema:
        """The schema for these raw values, with the keys of the plugins that the values select. Raises `ConfigError`."""
        from orlop_sdk import OrlopError, discovery

        try:
            chosen = msgspec.convert({key: values[key] for key in _SELECTING if key in values}, Config)
        except msgspec.ValidationError:
            chosen = Config()
        have = discovery.installed("keys")
        names = dict.fromkeys((*chosen.services, *chosen.front_ends, *chosen.guards))
        try:
            return cls({name: _checked(name, discovery.find("keys", name).make) for name in names if name in have})
        except OrlopError as error:
            raise ConfigError(str(error)) from error

    @property
    def parts(self) -> Collection[type[Keys]]:
        return self._parts.values()

    @property
    def hints(self) -> Mapping[str, str]:
        """Maps unknown keys to advice. If an unknown key is the name of a flag, the advice is the key that the flag sets."""
        found = {flag.name: flag.key.partition(".")[0] for flag in self.flags.values() if flag.key != flag.name and flag.key}
        for part in self.parts:
            found |= part.HINTS
        return {**found, **HINTS}

    @property
    def zeros(self) -> frozenset[str]:
        return frozenset().union(*(part.ZEROS for part in self.parts))

    @property
    def older(self) -> Mapping[str, str]:
        return {name: key for part in self.parts for name, key in part.OLDER.items()}

    @property
    def both(self) -> frozenset[str]:
        return frozenset().union(*(part.BOTH for part in self.parts))

    def check_type(self, key: str, value: object) -> None:
        """Raises `msgspec.ValidationError` when the key cannot have this value."""
        owner = self.owners[key]
        msgspec.convert({key: value}, self._parts[owner] if owner else Config)

    def convert(self, values: Mapping[str, Any]) -> Config:
        """Convert raw values to a configuration. All keys must be known. Raises `msgspec.ValidationError`."""
        split: dict[str, dict[str, Any]] = {_KERNEL: {}, **{name: {} for name in self._parts}}
        for key, value in values.items():
            split[self.owners[key]][key] = value
        parts = {name: msgspec.convert(split[name], keys) for name, keys in self._parts.items()}
        return msgspec.structs.replace(msgspec.convert(split[_KERNEL], Config), parts=parts)

    def unselected(self, key: str) -> str:
        """The name of an installed plugin that declares this key but is not selected; "" for none."""
        return next((name for name, keys in _installed() if key in keys.__struct_encode_fields__), "")

    def unselected_flag(self, flag: str) -> str:
        """The name of an installed plugin that declares this flag but is not selected; "" for none."""
        return next((name for name, keys in _installed() if flag in {each.name for each in keys.FLAGS}), "")


def _installed() -> Iterator[tuple[str, type[Keys]]]:
    """The name and the keys of each installed plugin. Omits plugins whose keys are invalid or cannot be imported."""
    from orlop_sdk import OrlopError, discovery

    for name in discovery.installed("keys"):
        try:
            yield name, _checked(name, discovery.find("keys", name).make)
        except (OrlopError, ConfigError):
            continue


_SELECTING = ("services", "front-ends", "guards")


def _checked(name: str, keys: object) -> type[Keys]:
    if not (isinstance(keys, type) and issubclass(keys, Keys)):
        raise ConfigError(f"cannot use the keys of {_label(name)}: {keys!r} is not a subclass of orlop_kernel.config.Keys")
    flags = {flag.key.partition(".")[0] for flag in keys.FLAGS}
    if missing := [key for key in keys.__struct_encode_fields__ if key not in flags and key not in keys.HELP]:
        raise ConfigError(f"cannot use the keys of {_label(name)}: HELP lacks {', '.join(missing)}")
    return keys


def replaced(running: Config, wanted: Config, keys: Collection[str]) -> Config:
    """A copy of the configuration `running` in which the given keys have their values from the configuration `wanted`."""

    def merged(old: Values, new: ConfigBase) -> Values:
        return msgspec.structs.replace(old, **{field: getattr(new, field) for key, field in fields(old) if key in keys})

    parts = {name: merged(part, wanted.parts.get(name, part)) for name, part in running.parts.items()}
    return msgspec.structs.replace(merged(running, wanted), parts=parts)
