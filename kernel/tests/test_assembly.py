"""Plugins of the daemon are checked against their Protocols when they are loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any, cast

import pytest
import trio

from orlop_kernel import assembly
from orlop_kernel.config import Config, Listener, Loaded, Problem
from orlop_kernel.kinds import Context, Service
from orlop_kernel.routing.router import Route
from orlop_sdk import DriverError, discovery


class Clock:
    """A service."""

    requires = ()

    def problems(self, config: Config) -> Iterator[Problem]:
        yield Problem("the clock stands", ("services",))

    def processes(self, config: Config) -> nullcontext[None]:
        return nullcontext()

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        yield Service()


class Timeless(Clock):
    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        yield cast("Service", object())


class Demanding(Clock):
    def processes(self, config: Config, more: int) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


class Bare:
    """A plugin without the methods of its Protocol."""


class Page:
    """A front end."""

    dialect = None

    def __init__(self, context: Context) -> None: ...

    def routes(self) -> list[Route]:
        return []


class Blank:
    """A front end without a dialect."""

    def __init__(self, context: Context) -> None: ...

    def routes(self) -> list[Route]:
        return []


class Gates:
    """The object that the guard plugin `Gate` opens."""

    def guard(self, listener: Listener | None) -> None:
        return None

    def prepare(self, config: Config) -> Callable[[], None]:
        return lambda: None


class Gate:
    """A guard."""

    made: type = Gates

    def problems(self, config: Config) -> tuple[Problem, ...]:
        return ()

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Any]:
        yield self.made()


class Open(Gate):
    made = Bare


class Nothing:
    """A check plugin that does not return a check."""

    def open(self) -> None: ...


PLUGINS: dict[tuple[str, str], Any] = {
    ("service", "clock"): Clock,
    ("service", "timeless"): Timeless,
    ("service", "demanding"): Demanding,
    ("service", "bare"): Bare,
    ("service", "none"): lambda: None,
    ("frontend", "page"): Page,
    ("frontend", "blank"): Blank,
    ("frontend", "bare"): lambda context: Bare(),
    ("guard", "gate"): Gate,
    ("guard", "open"): Open,
    ("guard", "bare"): Bare,
    ("check", "clock"): Nothing,
}


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(kind: str, name: str) -> discovery.Factory:
        return discovery.Factory(kind, name, PLUGINS[kind, name], 1, "mine", "1")

    monkeypatch.setattr(discovery, "find", find)
    monkeypatch.setattr(discovery, "installed", lambda kind: [name for each, name in PLUGINS if each == kind])


def config(**names: tuple[str, ...]) -> Config:
    return Config(**{"services": (), "front_ends": (), "guards": (), **names})  # type: ignore[arg-type]


def context(config: Config) -> Context:
    return Context(Loaded(config), cast("Any", None), cast("Any", None), cast("Any", None), {}, None)


def opened(config: Config) -> list[object]:
    """Open all plugins."""

    async def main() -> list[object]:
        plugins = assembly.service_plugins(config)
        async with (
            assembly.processes(plugins, config) as processes,
            assembly.opened(plugins, processes, context(config)) as services,
            assembly.guards(context(config)) as guards,
        ):
            return [*services, *assembly.front_ends(context(config)), *guards]

    return trio.run(main)


def test_valid_plugins_are_accepted_and_opened() -> None:
    assert len(opened(config(services=("clock",), front_ends=("page",), guards=("gate",)))) == 3


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (config(services=("bare",)), 'cannot use service plugin "bare": Bare lacks `requires` of ServicePlugin'),
        (config(services=("none",)), 'cannot use service plugin "none": its factory returned None, not a ServicePlugin'),
        (config(services=("demanding",)), "does not take the arguments of ServicePlugin.processes"),
        (config(services=("timeless",)), 'cannot use service plugin "timeless": .* is not a subclass of Service'),
        (config(front_ends=("bare",)), 'cannot use frontend plugin "bare": Bare lacks `dialect` of FrontEnd'),
        (config(front_ends=("blank",)), 'cannot use frontend plugin "blank": Blank lacks `dialect` of FrontEnd'),
        (config(guards=("bare",)), 'cannot use guard plugin "bare": Bare lacks `problems` of GuardPlugin'),
        (config(guards=("open",)), 'cannot use guard plugin "open": Bare lacks `guard` of Guards'),
    ],
)
def test_plugins_that_do_not_implement_their_protocol_are_refused(wrong: Config, text: str) -> None:
    with pytest.raises(DriverError, match=text):
        opened(wrong)


def test_check_plugin_whose_method_has_wrong_arguments_is_refused() -> None:
    with pytest.raises(DriverError, match=r'cannot use check plugin "clock": Nothing.open.* does not take the arguments'):
        assembly.check_plugins(config(services=("clock",)))


def test_option_validate_reports_invalid_plugins() -> None:
    found = list(assembly.problems(config(services=("clock", "bare"), guards=("bare",))))
    assert [problem.keys for problem in found] == [("services",), ("services",), ("guards",)]
    assert [problem.text for problem in found] == [
        "the clock stands",
        'cannot use service plugin "bare": Bare lacks `requires` of ServicePlugin',
        'cannot use guard plugin "bare": Bare lacks `problems` of GuardPlugin',
    ]


def test_log_line_lists_the_services_and_front_ends_and_guards_that_run() -> None:
    assert assembly.describe(config(services=("clock",))) == "services: clock; front ends: none; guards: none"
