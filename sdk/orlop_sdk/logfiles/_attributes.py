"""The extra attributes that the options `labels`, `labels-regex`, `env`, `env-regex` and `tag` add to each record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from orlop_sdk.errors import InvalidParameter
from orlop_sdk.log import LogInfo

from ._template import Template, Value

__all__ = ["ATTRIBUTE_OPTIONS", "check_attribute_options", "extra_attributes", "log_tag", "selected_attributes"]

_LONGEST = 1024
ATTRIBUTE_OPTIONS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})


def _pattern(key: str, text: str) -> re.Pattern[str]:
    try:
        # Go's \z is \Z in Python. The other syntax that is common in these options is the same in Go and Python.
        return re.compile(text.replace("\\z", "\\Z"))
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidParameter(f"cannot use log option {key}={text}: error parsing regexp: {error}") from None


def check_attribute_options(options: Mapping[str, str]) -> None:
    """Raise `InvalidParameter` for a pattern or tag that cannot be evaluated when a container starts, or that is so long
    that checking it would block the daemon."""
    for key in ("labels-regex", "env-regex", "tag"):
        if len(options.get(key, "")) > _LONGEST:
            raise InvalidParameter(f"cannot use log option {key}: it has more than {_LONGEST} characters")
    for key in ("labels-regex", "env-regex"):
        if options.get(key):
            _pattern(key, options[key])
    Template(options.get("tag", ""))


def _select(values: Mapping[str, str], options: Mapping[str, str], key: str) -> dict[str, str]:
    found = {name: values[name] for name in options.get(key, "").split(",") if name in values}
    if expression := options.get(key + "-regex"):
        pattern = _pattern(key + "-regex", expression)
        found |= {name: value for name, value in values.items() if pattern.search(name)}
    return found


def selected_attributes(info: LogInfo, options: Mapping[str, str]) -> dict[str, str]:
    """The labels and environment variables that the options `labels`, `labels-regex`, `env` and `env-regex` select."""
    env = dict(pair.split("=", 1) for pair in info.env if "=" in pair)
    return _select(info.labels, options, "labels") | _select(env, options, "env")


def _fields(info: LogInfo, options: Mapping[str, str]) -> dict[str, Value]:
    return {
        "ID": info.container_id[:12],
        "FullID": info.container_id,
        "Name": info.container_name.removeprefix("/"),
        "Command": info.command,
        "ImageID": info.image_id[:12],
        "ImageFullID": info.image_id,
        "ImageName": info.image_name,
        "Hostname": info.hostname or os.uname().nodename,
        "DaemonName": info.daemon_name,
        "Config": dict(options),
        "ContainerID": info.container_id,
        "ContainerName": info.container_name,
        "ContainerImageID": info.image_id,
        "ContainerImageName": info.image_name,
        "ContainerCreated": info.created,
        "ContainerEnv": list(info.env),
        "ContainerLabels": dict(info.labels),
        "ExtraAttributes": selected_attributes(info, options),
    }


def extra_attributes(info: LogInfo, options: Mapping[str, str]) -> dict[str, str]:
    """The extra attributes, sorted by name. They do not change during a run of the container. An empty `tag` is left out."""
    attributes = selected_attributes(info, options)
    if tag := Template(options.get("tag", "")).render(_fields(info, options)):
        attributes["tag"] = tag
    return dict(sorted(attributes.items()))


def log_tag(info: LogInfo, options: Mapping[str, str], default: str = "{{.ID}}") -> str:
    """The text that results from the option `tag`. Drivers that send logs to a service identify the container by this
    text."""
    return Template(options.get("tag", "") or default).render(_fields(info, options))
