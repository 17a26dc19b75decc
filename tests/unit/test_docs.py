"""The documentation is complete: every option, route and name of the code is on its page, and everything on a page is in the
code.

The pages contain tables. The first cell of a row has the name in backquotes. Each table must have all names of the code, and
no others.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest

import orlop_api_docker
import orlop_check
import orlop_sdk
from orlop_api_docker.versions import MIN_API_VERSION, parse_version
from orlop_cli import _plugins
from orlop_cli._groups import LazyGroup
from orlop_cli._root import root as orlop
from orlop_engine.config.policy import IGNORED, REFUSED, SILENT
from orlop_engine.images.hosts_file import SETTINGS
from orlop_kernel.config import load
from orlop_kernel.config.keys import Schema
from orlop_kernel.routing.router import Route
from orlop_sdk import hooks

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_CODE = re.compile(r"`([^`]+)`")
_NOT_OURS = {"build", "dist", "__pycache__"}


def section(page: str, title: str) -> str:
    """The text under a heading, including its subheadings."""
    text = (DOCS / page).read_text()
    match = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert match, f"{page} has no section {title}"
    end = re.search(rf"^#{{1,{len(match[1])}}} ", text[match.end() :], re.MULTILINE)
    return text[match.end() : match.end() + end.start() if end else None]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of each table, without header and separator rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not line.startswith("|--") and not following.startswith("|--"):
            yield cells


def _tracked(*suffixes: str) -> Iterator[Path]:
    for directory, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith(".") and name not in _NOT_OURS]
        yield from (Path(directory, name) for name in files if name.endswith(suffixes))


# --- daemon.json ------------------------------------------------------------------------------------------------------

_DEFAULTS = load(["--config-file", "/dev/null"], {})
_VALUES = _DEFAULTS.items()
_KEYS = {_CODE.findall(cells[0])[0]: cells for cells in rows(section("configuration.md", "Keys"))}


def test_configuration_page_lists_every_key_in_its_section() -> None:
    def table(title: str) -> set[str]:
        return {_CODE.findall(cells[0])[0] for cells in rows(section("configuration.md", title))}

    assert table("Ignored keys") == IGNORED.keys() | SILENT
    assert table("Refused keys") == set(REFUSED)
    assert set(_KEYS) == _VALUES.keys() - IGNORED.keys() - SILENT - REFUSED.keys()


def test_configuration_page_marks_reloadable_keys() -> None:
    assert {key for key, cells in _KEYS.items() if cells[2] == "yes"} == _DEFAULTS.reloadable
    assert {cells[2] for cells in _KEYS.values()} == {"yes", ""}


@pytest.mark.parametrize("key", [*_KEYS])
def test_configuration_page_shows_the_default_of_each_key(key: str) -> None:
    """The page shows a default as JSON. If the configuration has no default, the page describes the effect in words."""
    default = _VALUES[key]
    written = _KEYS[key][1].strip("`")
    if default in ("", ()) and written != "[]":
        assert '"' not in written
    elif key == "proxies":
        assert written == "from the environment"
    elif key == "hosts":
        assert written == "/run/orlop.sock"
    else:
        assert written == msgspec.json.encode(default).decode()


def test_registries_page_lists_every_key_of_hosts_toml() -> None:
    found = {_CODE.findall(cells[0])[0] for cells in rows(section("registries.md", "Mirrors"))}
    assert found == {"server", *SETTINGS}


def test_configuration_page_lists_every_flag_of_orlopd() -> None:
    found = {}
    for cells in rows(section("configuration.md", "Flags")):
        names = _CODE.findall(cells[0])
        found[names[-1]] = (names[0] if len(names) == 2 else "", cells[1])
    flags = Schema.select({}).flags
    assert set(found) == {f"--{name}" for name in flags}
    for flag in flags.values():
        short, key = found[f"--{flag.name}"]
        assert short == (f"-{flag.short}" if flag.short else "")
        if flag.key:
            fate = " (ignored)" if flag.key in IGNORED.keys() | SILENT else " (refused)" if flag.key in REFUSED else ""
            assert key == f"`{flag.key}`{fate}"


# --- the API ----------------------------------------------------------------------------------------------------------


class _Anything(SimpleNamespace):
    """An engine that has any attribute, for collecting routes."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()


def test_api_page_lists_every_route() -> None:
    found = {}
    for cells in rows(section("api.md", "Routes")):
        found[cells[0].strip("`")] = cells[1]
        assert cells[2]
    routes: list[Route] = []
    packages = [(orlop_api_docker.__path__, "orlop_api_docker."), (orlop_check.__path__, "orlop_check.")]
    for module in (each for path, prefix in packages for each in pkgutil.iter_modules(path, prefix)):
        resource = importlib.import_module(module.name)
        routes += resource.routes(_Anything()) if hasattr(resource, "routes") else []
    oldest = parse_version(MIN_API_VERSION)
    versions = {f"{each.method} {each.pattern}": max(each.since, oldest) for each in routes}
    assert found == {route: f"{major}.{minor}" for route, (major, minor) in versions.items()}


# --- drivers ----------------------------------------------------------------------------------------------------------


def _protocols() -> Iterator[tuple[str, type]]:
    for module in pkgutil.walk_packages(orlop_sdk.__path__, "orlop_sdk."):
        for name, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if getattr(found, "_is_protocol", False) and found.__module__ == module.name and name != "Register":
                yield name, found


@pytest.mark.parametrize(("name", "protocol"), [*_protocols()])
def test_drivers_page_lists_every_protocol_method(name: str, protocol: type) -> None:
    texts = [section("drivers.md", title) for title in ("Storage", "Network", "Runtime", "Volume", "Log")]
    homes = [text for text in texts if re.search(rf"`{name}`", text)]
    assert len(homes) == 1, f"docs/drivers.md says nothing of the Protocol {name}"
    members = [member for member in vars(protocol) if not member.startswith("_")]
    assert members
    assert not [member for member in members if f"`{member}`" not in homes[0]]


def test_drivers_page_names_every_hook_and_entry_point_group() -> None:
    page = (DOCS / "drivers.md").read_text()
    specs = [name for name in vars(hooks) if name.startswith("orlop_")]
    assert specs == [*(kind.hook for kind in hooks.KINDS.values()), "orlop_find_driver"]
    groups = [f"orlop.{kind}" for kind in (*hooks.KINDS, hooks.FINDER)]
    assert not [name for name in (*specs, *groups) if f"`{name}`" not in page]


def test_plugins_page_has_an_example_of_every_kind() -> None:
    """tests/integration/test_plugin_guide.py runs the examples. The kind `command` is left out, because only Orlop provides
    commands."""
    page = (DOCS / "plugins.md").read_text()
    for name, kind in hooks.KINDS.items():
        if not kind.driver and name != "command":
            assert f'"orlop.{name}"]' in page and f"def {kind.hook}(register):" in page


# --- the client -------------------------------------------------------------------------------------------------------


def _options(command: click.Command) -> set[str]:
    return {opt for param in command.params if isinstance(param, click.Option) and not param.hidden for opt in param.opts}


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=path)
    installed = [group._own_name(entry) for entry in group._others()] if isinstance(group, LazyGroup) else []
    for name in (*group.list_commands(context), *installed):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_client_page_lists_every_command_and_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_plugins, "find", lambda _: None)  # commands that a plugin of this machine replaces
    text = section("cli.md", "Commands")
    shared = section("cli.md", "Flags of create")
    found = {}
    for cells in rows(text.replace(shared, "")):
        flags = cells[2] + (shared if "(#flags-of-create)" in cells[2] else "")
        for name in _CODE.findall(cells[0]):
            found[name] = {flag for flag in _CODE.findall(flags) if flag.startswith("-")}
        assert cells[1]
    assert found == {name: _options(command) for name, command in _commands(orlop, "orlop")}


def test_client_page_lists_every_global_flag() -> None:
    found = {flag for cells in rows(section("cli.md", "Connecting to a daemon")) for flag in _CODE.findall(cells[0])}
    assert found == _options(orlop)


def test_client_page_names_every_environment_variable() -> None:
    page = (DOCS / "cli.md").read_text()
    source = "".join(path.read_text() for path in (ROOT / "cli" / "orlop_cli").rglob("*.py"))
    names = set(re.findall(r"""["']((?:DOCKER|ORLOP)_[A-Z_]+)["']""", source))
    assert "ORLOP_HOST" in names
    assert not [name for name in names if f"`{name}`" not in page]


# --- all pages --------------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*_tracked(".md")], ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_existing_files_and_headings(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)
    assert not broken


def test_every_page_can_be_reached_by_links_from_the_readme() -> None:
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in seen:
            continue
        seen.add(page)
        targets = [page.parent / name for name in re.findall(r"\]\(([^):#\s]+)", page.read_text())]
        todo += [target for target in targets if target.suffix == ".md"]
        todo += [each for target in targets if target.is_dir() for each in target.glob("*.md")]
    assert not [str(page.relative_to(ROOT)) for page in DOCS.rglob("*.md") if page.resolve() not in seen]


# The texts are concatenated, so that they do not match this file
_UNWANTED = {
    "a path of a developer's machine": "/wor" + "k/",
    "a package index": r"py" + r"pi\.|python" + r"hosted|crates\." + r"io|npm" + r"js|rubygems\." + "org|proxy\\.golang",
    "something left to do": r"\bTO" + r"DO\b|\bFIX" + r"ME\b",
}


@pytest.mark.parametrize("what", [*_UNWANTED])
def test_files_contain_no_developer_paths_or_package_indexes_or_unfinished_tasks(what: str) -> None:
    unwanted = re.compile(_UNWANTED[what])
    texts = ("dev", ".py", ".md", ".toml", ".txt", ".in", ".json", ".service", ".socket", ".sh", ".yml", "LICENSE", "NOTICE")
    found = [str(path.relative_to(ROOT)) for path in _tracked(*texts) if unwanted.search(path.read_text())]
    assert not found
