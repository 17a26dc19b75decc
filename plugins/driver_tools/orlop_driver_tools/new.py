"""Makes a driver project from a template."""

from __future__ import annotations

import re
import shlex
import sys
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from orlop_sdk import InvalidParameter, discovery

__all__ = ["KINDS", "Project", "project"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40


class _Kind(NamedTuple):
    """`sdk` is the requirement for the SDK. `use` shows how a user selects the driver. `root`: the suite needs root."""

    sdk: str
    use: str
    root: bool = False


KINDS = {
    "log": _Kind("orlop-sdk", "docker run --log-driver $name ..."),
    "network": _Kind("orlop-sdk[storage]", "docker network create -d $name NETWORK", root=True),
    "runtime": _Kind(
        "orlop-sdk", 'daemon.json: {"runtimes": {"$name": {"runtimeType": "$name", "path": "PROGRAM"}}}', root=True
    ),
    "storage": _Kind("orlop-sdk[storage]", 'daemon.json: {"storage-driver": "$name"}'),
    "volume": _Kind("orlop-sdk[storage]", "docker volume create -d $name VOLUME"),
}


class Project(NamedTuple):
    """The files of a project by their paths below its directory."""

    distribution: str
    module: str
    files: dict[str, str]

    def write(self, directory: Path) -> None:
        """Write the files. Raises `FileExistsError`, without a change, if the directory exists and is not empty."""
        if directory.is_dir() and any(directory.iterdir()):
            raise FileExistsError(f"{directory} exists and is not empty")
        for name, text in self.files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)


def _check_name(kind: str, name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise InvalidParameter(
            f'cannot use "{name}" as the name of a driver: use at most {_LONGEST} lower-case letters, digits, and "-" '
            "between them; the first character must be a letter"
        )
    if name in {each.rpartition(":")[2] for each in discovery.installed(kind)}:
        raise InvalidParameter(f'cannot use "{name}" as the name of a driver: a {kind} driver of this name is installed')


def _options(kind: str, name: str, *, service: bool) -> str:
    """The options of `orlop driver check` for the new driver."""
    if service:
        return f" --tests tests/test_{name.replace('-', '_')}.py"
    return " --path /usr/bin/runc" if kind == "runtime" else ""


def project(kind: str, name: str, *, service: bool = False) -> Project:
    """The files of a new driver. `service`: a log driver that sends the log to a service. Raises `InvalidParameter` for a
    name that cannot be used."""
    _check_name(kind, name)
    if service and kind != "log":
        raise InvalidParameter(f"--service is for log drivers, not for {kind} drivers")
    described = KINDS[kind]
    word = name.replace("-", "_")
    module = f"orlop_{kind}_{word}"
    values = {
        "name": name,
        "kind": kind,
        "distribution": f"orlop-{kind}-{name}",
        "module": module,
        "sdk": described.sdk,
        "python": shlex.quote(sys.executable),
        "sudo": "sudo " if described.root else "",
        "use": described.use.replace("$name", name),
        "options": _options(kind, name, service=service),
    }
    templates = files("orlop_driver_tools") / "templates"
    home = templates / ("log_service" if service else kind)
    made = {
        each: Template((templates / f"{each}.in").read_text()).substitute(values) for each in ("pyproject.toml", "README.md")
    }
    sources = {f"{module}.py": "driver.py", f"tests/test_{word}.py": "conformance.py"}
    for target, source in sources.items():
        made[target] = _renamed((home / source).read_text(), name, module)
    return Project(str(values["distribution"]), module, made)


def _renamed(text: str, name: str, module: str) -> str:
    class_name = "".join(part.capitalize() for part in name.split("-"))
    for old, new in (("orlop_mydriver", module), ("MyDriver", class_name), ("mydriver", name)):
        text = text.replace(old, new)
    return text
