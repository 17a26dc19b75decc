"""Check a configuration against the engine and this host.

`orlopd --validate`, a start and a reload use these checks, so that they find the same problems. The checks change nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from orlop_engine.calls import Gate
from orlop_engine.config import Config, RegistryRules, defaults
from orlop_engine.init_programs import find_init, no_init
from orlop_kernel.config import Problem
from orlop_kernel.failures import as_orlop_error
from orlop_sdk import NotFound, OrlopError, discovery

__all__ = ["problems"]

T = TypeVar("T")
_log = logging.getLogger("orlop.daemon")
_LOADING = 20.0  # seconds that a plugin may take to be imported and to check its options

# Names of directories in the data roots of dockerd, podman and containerd, and of an Orlop that has lost its database
_FOREIGN_DIRECTORIES = frozenset(
    {"containers", "image", "overlay-containers", "volumes", "buildkit", "io.containerd.metadata.v1.bolt"}
)
_BRIDGE = ("bip", "bip6", "bridge", "fixed_cidr", "fixed_cidr_v6", "default_gateway", "default_gateway_v6")


def problems(config: Config) -> Iterator[Problem]:
    """Yield every problem that prevents the engine from starting with this configuration."""
    yield from _data_root(config)
    yield from _log_driver(config)
    yield from _storage_driver(config)
    yield from _runtimes(config)
    yield from _init(config)
    yield from _userns_remap(config)
    yield from _seccomp(config)
    yield from _bridge(config)
    yield from _registry_rules(config)


def _bounded(label: str, work: Callable[[], T]) -> T:
    """Run a plugin's code on a thread, which is abandoned at a deadline: a plugin that hangs is a problem like others."""
    return Gate(label).make_blocking(work, _LOADING)


def _problem(error: BaseException, what: str, *keys: str) -> Problem:
    return Problem(str(as_orlop_error(error, what)), keys)


def _data_root(config: Config) -> Iterator[Problem]:
    """Refuse the data root of another engine, because a starting daemon removes all files that are not in Orlop's database.
    If Orlop has no daemon.json, it reads dockerd's daemon.json, which may contain dockerd's data-root."""
    try:
        names = set(os.listdir(config.data_root))
    except FileNotFoundError:
        return
    except OSError as error:  # the user who runs this check may not read the directory
        yield Problem(f"cannot check data-root: {error.strerror}", ("data-root",))
        return
    if "orlop.db" not in names and (found := sorted(names & _FOREIGN_DIRECTORIES)):
        listed = ", ".join(found)
        yield Problem(
            f"cannot use data root {config.data_root}: it contains data of another engine ({listed}) and no orlop.db; "
            "set another data-root for Orlop in /etc/orlop/daemon.json",
            ("data-root",),
        )


def _log_driver(config: Config) -> Iterator[Problem]:
    label = f'log driver "{config.log_driver}"'
    try:
        driver = _bounded(label, lambda: discovery.find("log", config.log_driver).make())
    except NotFound as error:  # the message begins like Docker's message
        name = config.log_driver
        yield Problem(f'error looking up logging plugin {name}: plugin "{name}" not found: {error}', ("log-driver",))
        return
    except BaseException as error:  # a driver may raise any exception, even one that would end the daemon during a reload
        yield _problem(error, "cannot use log-driver", "log-driver")
        return
    try:
        _bounded(label, lambda: driver.validate(config.log_opts))
    except BaseException as error:
        yield _problem(error, "cannot use log-opts", "log-driver", "log-opts")


def _storage_driver(config: Config) -> Iterator[Problem]:
    name = config.effective_storage_driver
    label = f'storage driver "{name}"'
    try:
        found = _bounded(label, lambda: discovery.find("storage", name))
    except OrlopError as error:
        yield _problem(error, "cannot use storage-driver", "storage-driver")
        return
    known = {each.rpartition(":")[2] for each in discovery.installed("storage")}  # without DISTRIBUTION:
    for option in config.storage_opts:
        if option.partition("=")[0].strip().partition(".")[0] not in known:
            yield Problem(
                f'invalid storage option "{option}": it must begin with a storage driver, as in {name}.NAME=VALUE',
                ("storage-opts",),
            )
    if (check := found.check_options) is not None:
        try:
            _bounded(label, lambda: check(config.storage_options(found.name)))
        except BaseException as error:
            yield _problem(error, "cannot use storage-opts", "storage-opts")


def _userns_remap(config: Config) -> Iterator[Problem]:
    if config.userns_remap:
        from orlop_engine.config import remapping

        try:
            ids = remapping.id_map(config.userns_remap)
        except OrlopError as error:
            yield Problem(str(error), ("userns-remap",))
            return
        if ids and (closed := remapping.closed_directory(config.exec_root)):
            yield Problem(
                f"cannot use userns-remap: directory {closed} of the path {config.exec_root} restricts access to the "
                "remapped root uid/gid; please fix by allowing 'o+x' permissions on it",
                ("userns-remap",),
            )


def _runtimes(config: Config) -> Iterator[Problem]:
    for name, entry in config.all_runtimes().items():
        try:
            kind = entry.runtime_type or defaults.RUNTIME_DRIVER
            _bounded(f'runtime driver "{kind}"', partial(discovery.find, "runtime", kind))
        except OrlopError as error:
            # A daemon must start while containers run: otherwise nobody could stop them
            if name != config.effective_runtime and _has_runs(config):
                _log.warning("containers cannot use runtime %s: %s", name, error)
            else:
                yield Problem(f"cannot use runtime {name}: {error}", ("runtimes",))


def _has_runs(config: Config) -> bool:
    """Whether monitors of an earlier daemon may still run containers."""
    try:
        return bool(os.listdir(os.path.join(config.exec_root, "run")))
    except OSError:
        return False


def _init(config: Config) -> Iterator[Problem]:
    """Check that the init program exists, because without it every container with `--init` fails."""
    if (config.init or config.init_path) and not find_init(config.init_path):
        key = "init-path" if config.init_path else "init"
        yield Problem(f"cannot use {key}: {no_init(config.init_path)}", (key,))


def _seccomp(config: Config) -> Iterator[Problem]:
    profile = config.seccomp_profile
    if profile in ("", "builtin", "unconfined"):
        return
    from .spec import seccomp

    try:
        with open(profile) as file:
            seccomp.parse(file.read(), ())
    except (OSError, UnicodeDecodeError, OrlopError) as error:
        yield Problem(f"cannot use seccomp-profile {profile}: {error}", ("seccomp-profile",))


def _registry_rules(config: Config) -> Iterator[Problem]:
    if config.registry_rules == RegistryRules():
        return
    from .images import registry_rules

    for text in registry_rules.problems(config.registry_rules):
        yield Problem(text, ("registry-rules",))


def _bridge(config: Config) -> Iterator[Problem]:
    """Check the keys of the network `bridge`. The module with the checks is imported only if one of these keys is set."""
    keys = tuple(name.replace("_", "-") for name in _BRIDGE if getattr(config, name))
    if not keys:
        return
    from .networks import predefined

    try:
        predefined.check(config)
    except OrlopError as error:
        yield Problem(str(error), keys)
