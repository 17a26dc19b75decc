"""The configuration of an image while a Dockerfile changes it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .platforms import Platform

__all__ = ["Image", "default_path"]

_COMMENT = "buildkit.dockerfile.v0"


def default_path(os: str) -> str:
    if os == "windows":
        return "c:\\Windows\\System32;c:\\Windows"
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _History:
    """A history: the entries of another history, and additional entries. A stage that is based on another stage shares the
    entries of that stage, because there may be many."""

    def __init__(self, before: _History | None, entries: list[dict[str, Any]]) -> None:
        self.before, self.entries = before, entries

    def all(self) -> list[dict[str, Any]]:
        parts = []
        at: _History | None = self
        while at is not None:
            parts.append(at.entries)
            at = at.before
        return [entry for part in reversed(parts) for entry in part]


class Image:
    """The configuration. `data` is its JSON. Members that Docker does not know stay."""

    def __init__(self, data: dict[str, Any], history: _History | None = None) -> None:
        self.data = data
        self._env = dict(self._split_env())
        self._history = history or _History(None, data.get("history") or [])

    @classmethod
    def empty(cls, platform: Platform) -> Image:
        data: dict[str, Any] = {"architecture": platform.architecture, "os": platform.os}
        if platform.variant:
            data["variant"] = platform.variant
        if platform.os_version:
            data["os.version"] = platform.os_version
        image = cls(data | {"config": {}, "rootfs": {"type": "layers", "diff_ids": []}})
        image.set_env("PATH", default_path(platform.os))
        image.config["WorkingDir"] = "/"
        return image

    @classmethod
    def parsed(cls, data: bytes) -> Image:
        """Parse a configuration. Raises `ValueError` if the JSON is not the configuration of an image."""
        try:
            value = json.loads(data)
        except RecursionError:
            raise ValueError("too deeply nested") from None
        if not isinstance(value, dict):
            raise ValueError("not an object")
        for name, kind in (("config", dict), ("rootfs", dict), ("history", list)):
            if not isinstance(value.get(name) or kind(), kind):
                raise ValueError(f'"{name}" has the wrong type')
        if not all(isinstance(entry, dict) for entry in value.get("history") or []):
            raise ValueError('"history" has the wrong type')
        value["config"] = value.get("config") or {}
        value["rootfs"] = value.get("rootfs") or {"type": "layers", "diff_ids": []}
        config = value["config"]
        for name in ("Env", "OnBuild", "Cmd", "Entrypoint", "Shell"):
            items = config.get(name) or []
            if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
                raise ValueError(f'"{name}" has the wrong type')
        for name, wanted in (
            ("User", str),
            ("WorkingDir", str),
            ("Labels", dict),
            ("ExposedPorts", dict),
            ("Volumes", dict),
        ):
            if not isinstance(config.get(name) or wanted(), wanted):
                raise ValueError(f'"{name}" has the wrong type')
        if not isinstance(value.get("os.features") or [], list):
            raise ValueError('"os.features" has the wrong type')
        value.pop("created", None)
        return cls(value)

    def copied(self) -> Image:
        """A copy for a stage that is based on this image, without its triggers. This configuration must not be changed after
        the copy."""
        self._write_env()
        data = {name: value for name, value in self.data.items() if name != "history"}
        image = Image(copy.deepcopy(data), _History(self._history, []))
        image.config.pop("OnBuild", None)
        return image

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.data["config"]
        return config

    @property
    def platform(self) -> Platform:
        features = self.data.get("os.features") or ()
        return Platform(
            str(self.data.get("os") or ""),
            str(self.data.get("architecture") or ""),
            str(self.data.get("variant") or ""),
            str(self.data.get("os.version") or ""),
            tuple(map(str, features)),
        )

    @property
    def has_layers(self) -> bool:
        if self.data["rootfs"].get("diff_ids"):
            return True
        return any(not item.get("empty_layer") for item in self._history.all())

    def _split_env(self) -> Iterable[tuple[str, str]]:
        for item in self.data["config"].get("Env") or []:
            name, _, value = item.partition("=")
            yield name, value

    @property
    def env(self) -> Mapping[str, str]:
        return self._env

    def set_env(self, name: str, value: str) -> None:
        """Set a variable. A variable that is already set keeps its position."""
        self._env[name] = value

    def set_or_remove(self, name: str, value: object) -> None:
        if value:
            self.config[name] = value
        else:
            self.config.pop(name, None)

    def record(self, text: str, *, layer: bool, created: str | None, buildkit: bool = False) -> None:
        """Add an entry to the history. `buildkit` marks entries of instructions that ran an operation."""
        entry: dict[str, Any] = {"created": created} if created else {}
        entry |= {"created_by": text + (" # buildkit" if buildkit else ""), "comment": _COMMENT}
        if not layer:
            entry["empty_layer"] = True
        self._history.entries.append(entry)

    def set_platform(self, platform: Platform) -> None:
        """Set the platform of the build's target."""
        same = (self.data.get("os"), self.data.get("architecture")) == (platform.os, platform.architecture)
        self.data["os"], self.data["architecture"] = platform.os, platform.architecture
        for name, value in (("variant", platform.variant), ("os.version", platform.os_version)):
            if value:
                self.data[name] = value
            elif not same:
                self.data.pop(name, None)

    def _write_env(self) -> None:
        self.set_or_remove("Env", [f"{name}={value}" for name, value in self._env.items()])

    def written(self) -> bytes:
        normalized = self.platform.normalized()
        self.data["os"], self.data["architecture"] = normalized.os, normalized.architecture
        if normalized.variant:
            self.data["variant"] = normalized.variant
        else:
            self.data.pop("variant", None)
        self._write_env()
        if history := self._history.all():
            self.data["history"] = history
        return json.dumps(self.data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
