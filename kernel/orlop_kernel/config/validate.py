"""Checks a merged configuration: the kernel's keys are checked here, a plugin's keys by the plugin. Pure.

Reports every problem with the keys that cause it, in dockerd's words if dockerd has a message for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from .errors import Problem
from .model import Config, fields

__all__ = ["LOG_LEVELS", "validate"]

LOG_LEVELS = ("panic", "fatal", "error", "warn", "info", "debug", "trace")


Problems = Iterator[Problem]


def _problem(text: str, *keys: str) -> Problem:
    return Problem(text, keys)


def _refused(config: Config) -> Problems:
    for part in config.parts.values():
        defaults = type(part)()
        for key, field in fields(part):
            value = getattr(part, field)
            switched_off = isinstance(value, dict) and value.get("enable") is False
            if key in part.REFUSED and value != getattr(defaults, field) and not switched_off:
                yield _problem(f"cannot use {key}: {part.REFUSED[key]}", key)


def _daemon(config: Config) -> Problems:
    if config.log_level not in LOG_LEVELS:
        yield _problem(f"invalid logging level: {config.log_level} (one of {', '.join(LOG_LEVELS)})", "log-level")
    if config.log_format not in ("text", "json"):
        yield _problem(f"invalid log format: {config.log_format} (text or json)", "log-format")
    for key, path in (("data-root", config.data_root), ("exec-root", config.exec_root)):
        if not os.path.isabs(path):
            yield _problem(f'invalid {key} "{path}": an absolute path is needed', key)


def _hosts(config: Config) -> Problems:
    """Check scheme and form. `boot.exposure` decides whether a TCP address may be served without TLS."""
    for host in config.hosts:
        scheme, separator, rest = host.partition("://")
        wrong = f"invalid bind address ({host}): "
        if separator and scheme not in ("unix", "tcp", "fd"):
            yield _problem(f"{wrong}unsupported protocol: {scheme} (unix, tcp or fd)", "hosts")
        if scheme == "unix" and separator and not os.path.isabs(rest or "/run/orlop.sock"):
            yield _problem(f"{wrong}an absolute path is needed", "hosts")
        if scheme == "tcp" or not separator:
            _, colon, port = (rest if separator else host).rpartition(":")
            if colon and port and "]" not in port and not (port.isdigit() and int(port) < 65536):
                yield _problem(f"{wrong}invalid port {port}", "hosts")
    tls = ("tls", "tlsverify")
    if config.uses_tls and not (config.tlscert and config.tlskey):
        text = "invalid TLS configuration: tlscert and tlskey are needed; DOCKER_CERT_PATH and ~/.docker do not contain them"
        yield _problem(text, *tls, "tlscert", "tlskey")
    if config.verifies_clients and not config.tlscacert:
        text = 'invalid TLS configuration: tlscacert is needed to verify clients (or set "tlsverify": false)'
        yield _problem(text, *tls, "tlscacert")


def validate(config: Config) -> list[Problem]:
    """Every problem of the configuration."""
    checks = (_refused, _daemon, _hosts)
    found = [problem for check in checks for problem in check(config)]
    return [*found, *(problem for part in config.parts.values() for problem in part.problems(config))]
