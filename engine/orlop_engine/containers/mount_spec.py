"""Parse `--volume`, `--mount`, `--tmpfs` and the VOLUMEs of images into `MountRecord`s, and convert records to OCI mounts.
The only I/O is the check whether the sources of binds exist.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from orlop_engine.types.containers import HostConfig, MountSpec
from orlop_sdk import InvalidParameter, Mount
from orlop_sdk.subpaths import is_local

from . import entry_limits
from .record import MountRecord

__all__ = ["normal_target", "oci", "parse_bind", "plan"]

_PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_CONSISTENCY = frozenset({"consistent", "cached", "delegated"})  # for Docker Desktop; has no effect on Linux
# A mode contains at most one word of each set.
_MODES = (frozenset({"ro", "rw"}), frozenset({"z", "Z"}), frozenset({"nocopy"}), _CONSISTENCY, _PROPAGATION)
_TMPFS_TEXT = 4095  # mount(2) accepts at most one page of options
_TMPFS = ("noexec", "nosuid", "nodev")
# Docker's list, but without "bind", "rbind" and "remount", because a mount with these flags creates no tmpfs.
_FLAGS = frozenset("defaults ro rw exec noexec suid nosuid dev nodev sync async dirsync mand nomand atime noatime diratime "
                   "nodiratime relatime norelatime strictatime nostrictatime unbindable runbindable".split())  # fmt: skip
_VALUES = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})
_OPTIONS = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions", "image": "ImageOptions"}


def _destination(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type \"volume\": "
            f"invalid mount path: '{path}' mount path must be absolute"
        )
    clean = posixpath.normpath(path)
    clean = "/" + clean.lstrip("/")
    if clean == "/":
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid specification: destination can't be '/'")
    return clean


def parse_bind(text: str) -> MountRecord:
    """Parse `[source:]destination[:mode]`. If the source is an absolute path, the mount is a bind. Any other source is the
    name of a volume."""
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts[:2]):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    mode = ""
    if len(parts) == 3:
        source, destination, mode = parts
    elif len(parts) == 2 and not parts[1].startswith("/") and parts[0].startswith("/"):
        source, destination, mode = "", parts[0], parts[1]
    elif len(parts) == 2:
        source, destination = parts
    else:
        source, destination = "", parts[0]
    words = mode.split(",") if mode else []
    if any(not any(word in kind for kind in _MODES) for word in words) or any(
        sum(word in kind for word in words) > 1 for kind in _MODES
    ):
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid mode: {mode}")
    propagation = next((word for word in words if word in _PROPAGATION), "")
    destination = _destination(destination, text)
    if source.startswith("/"):
        if "nocopy" in words:
            raise InvalidParameter(
                f"invalid volume specification: '{text}': invalid mount config for type \"bind\": field VolumeOptions must "
                "not be specified"
            )
        clean = posixpath.normpath(source)
        return MountRecord(
            type="bind",
            destination=destination,
            source=clean,
            mode=mode,
            rw="ro" not in words,
            propagation=propagation or "rprivate",
        )
    if propagation:
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid mode: {mode}")
    return MountRecord(
        type="volume",
        destination=destination,
        name=source or secrets.token_hex(32),
        mode=mode or "z",
        rw="ro" not in words,
        anonymous=not source,
        copy="nocopy" not in words,
    )


def _invalid(spec: MountSpec, why: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{spec.type}": {why}')


def normal_target(target: str) -> str:
    """The normalised absolute path of a mount's target."""
    return "/" + posixpath.normpath(target).lstrip("/")


def parse_spec(spec: MountSpec) -> MountRecord:
    """Parse one `--mount`."""
    if spec.type not in _OPTIONS:
        raise _invalid(spec, "mount type unknown")
    for kind, name in _OPTIONS.items():
        if kind != spec.type and getattr(spec, f"{kind}_options") is not None:
            raise InvalidParameter(f'{name} must not be specified on mount type "{spec.type}"')
    if spec.consistency not in ("", "default", *_CONSISTENCY):
        raise _invalid(spec, f"invalid consistency: {spec.consistency}")
    if not spec.target:
        raise _invalid(spec, "field Target must not be empty")
    if not spec.target.startswith("/"):
        raise _invalid(spec, f"invalid mount path: '{spec.target}' mount path must be absolute")
    destination = normal_target(spec.target)
    if destination == "/":
        raise _invalid(spec, "invalid specification: destination can't be '/'")
    if spec.type == "bind":
        return _bind_spec(spec, destination)
    if spec.type == "volume":
        options = spec.volume_options
        if not spec.source:
            for given, what in ((spec.read_only, "ReadOnly mode"), (options and options.subpath, "Subpath")):
                if given:
                    raise _invalid(spec, f"must not set {what} when using anonymous volumes")
        _check_subpath(spec, options.subpath if options else "", "volume")
        driver = options.driver_config.name if options and options.driver_config else ""
        return MountRecord(
            type="volume",
            destination=destination,
            name=spec.source or secrets.token_hex(32),
            driver=driver,
            mode="z",
            rw=not spec.read_only,
            subpath=options.subpath if options else "",
            anonymous=not spec.source,
            copy=not (options and options.no_copy),
        )
    if spec.type == "tmpfs":
        return _tmpfs_spec(spec, destination)
    if not spec.source:
        raise _invalid(spec, "field Source must not be empty")
    subpath = spec.image_options.subpath if spec.image_options else ""
    _check_subpath(spec, subpath, "image")
    return MountRecord(type="image", destination=destination, source=spec.source, rw=False, subpath=subpath)


def _check_subpath(spec: MountSpec, subpath: str, where: str) -> None:
    if not is_local(subpath):
        raise _invalid(spec, f"subpath must be a relative path within the {where}")


def _tmpfs_spec(spec: MountSpec, destination: str) -> MountRecord:
    if spec.source:
        raise _invalid(spec, "field Source must not be specified")
    words = []
    if options := spec.tmpfs_options:
        if options.size_bytes < 0:
            raise _invalid(spec, f"invalid size: {options.size_bytes}")
        if options.size_bytes:
            words.append(f"size={options.size_bytes}")
        if options.mode:
            words.append(f"mode={options.mode:o}")
        words += ["=".join(pair) for pair in options.options or ()]
    return MountRecord(type="tmpfs", destination=destination, rw=not spec.read_only, options=_tmpfs_words(words))


def _tmpfs_words(words: list[str]) -> tuple[str, ...]:
    """The options of a tmpfs: the default options, without those that the client's options `words` override, followed by
    `words`."""
    for word in words:
        name, sign, _ = word.partition("=")
        if word not in _FLAGS | _PROPAGATION and not (sign and name in _VALUES):
            raise InvalidParameter(f'invalid tmpfs option "{name}"')
    return (*(word for word in _TMPFS if word.removeprefix("no") not in words and word not in words), *words)


def _bind_spec(spec: MountSpec, destination: str) -> MountRecord:
    options = spec.bind_options
    if not spec.source:
        raise _invalid(spec, "field Source must not be empty")
    if not spec.source.startswith("/"):
        raise _invalid(spec, f"invalid mount path: '{spec.source}' mount path must be absolute")
    if not os.path.exists(spec.source) and not (options and options.create_mountpoint):
        raise _invalid(spec, f"bind source path does not exist: {spec.source}")
    propagation = options.propagation if options else ""
    if propagation and propagation not in _PROPAGATION:
        raise _invalid(spec, f"invalid propagation mode: {propagation}")
    flat, deep = (options.read_only_non_recursive, options.read_only_force_recursive) if options else (False, False)
    for given, name in ((flat, "ReadOnlyNonRecursive"), (deep, "ReadOnlyForceRecursive")):
        if given and not spec.read_only:
            raise _invalid(spec, f"mount options conflict: !ReadOnly && BindOptions.{name}")
    if flat and deep:
        raise _invalid(spec, "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive")
    return MountRecord(
        type="bind",
        destination=destination,
        source=posixpath.normpath(spec.source),
        rw=not spec.read_only,
        propagation=propagation or "rprivate",
        recursive=not (options and options.non_recursive),
        flat_readonly=flat,
        deep_readonly=deep,
    )


def plan(
    host: HostConfig,
    image_volumes: Iterable[str],
    inherited: Iterable[MountRecord] = (),
    *,
    flat_readonly: bool = False,
) -> tuple[MountRecord, ...]:
    """All mounts of a container. As in Docker, the container's own mounts (binds, `--mount` and tmpfs) replace inherited
    mounts (`--volumes-from`) with the same destination. A volume of the image is used only if its destination has no other
    mount. With `flat_readonly`, mounts below a read-only bind stay writable unless the client asks otherwise."""
    found: dict[str, MountRecord] = {mount.destination: mount for mount in inherited}
    own: set[str] = set()

    def add(mount: MountRecord) -> None:
        if mount.destination in own:
            raise InvalidParameter(f"Duplicate mount point: {mount.destination}")
        own.add(mount.destination)
        if flat_readonly and mount.type == "bind" and not mount.rw and not mount.deep_readonly:
            mount = replace(mount, flat_readonly=True)
        found[mount.destination] = mount

    for text in host.binds or ():
        add(parse_bind(text))
    for spec in host.mounts or ():
        add(parse_spec(spec))
    for destination, text in (host.tmpfs or {}).items():
        if len(text) > _TMPFS_TEXT:
            raise InvalidParameter(f"invalid tmpfs options for {destination}: more than {_TMPFS_TEXT} characters")
        words = [word for word in text.split(",") if word]
        add(
            MountRecord(
                type="tmpfs",
                destination=_destination(destination, destination),
                rw="ro" not in words,
                options=_tmpfs_words(words),
                mode=text,
            )
        )
    for path in image_volumes:
        destination = _destination(path, path)
        if destination not in found:
            found[destination] = MountRecord(
                type="volume", destination=destination, name=secrets.token_hex(32), anonymous=True
            )
    if len(found) > entry_limits.MOUNTS:
        raise InvalidParameter(f"too many mounts: {len(found)}, at most {entry_limits.MOUNTS} are allowed")
    return tuple(found.values())


def oci(record: MountRecord, volume: Iterable[Mount] = (), *, deep: bool = False) -> list[dict[str, Any]]:
    """The OCI mounts of one record. `volume` are the mounts of a volume or an image. `deep`: the runtime supports
    recursive read-only mounts."""
    readonly = [] if record.rw else ["rro" if deep and not record.flat_readonly else "ro"]
    if record.type == "tmpfs":
        return [
            {
                "destination": record.destination,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": list(dict.fromkeys([*record.options, *([] if record.rw else ["ro"])])),
            }
        ]
    if record.type == "bind":
        words = ["rbind", record.propagation or "rprivate", *readonly]
        if not record.recursive:  # crun treats any option that begins with "r" as recursive
            words = ["bind", words[1].removeprefix("r"), *([] if record.rw else ["ro"])]
        return [{"destination": record.destination, "type": "bind", "source": record.source, "options": words}]
    out = []
    for mount in volume:
        words = list(mount.options)
        if mount.type != "bind":
            words += readonly and ["ro"]
        else:
            own = (word for word in words if word not in ("bind", "rbind", "rw"))
            words = ["rbind", record.propagation or "rprivate", *own, *readonly]
        out.append(
            {
                "destination": posixpath.join(record.destination, mount.target) if mount.target else record.destination,
                "type": mount.type,
                "source": mount.source,
                "options": list(dict.fromkeys(words)),
            }
        )
    return out
