"""Creates services, routes, guards and checks from the plugin names in daemon.json. Services are opened after the services
that they require."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from orlop_kernel import kinds
from orlop_kernel.config import Config, ConfigError, Loaded, Problem
from orlop_sdk import DriverError, OrlopError, discovery, protocols

if TYPE_CHECKING:
    from orlop_kernel.http.messages import Answer
    from orlop_kernel.kinds import CheckPlugin, Context, FrontEnd, GuardPlugin, Guards, Service, ServicePlugin
    from orlop_kernel.routing.call import Call
    from orlop_kernel.routing.router import Guard, OnAnswer, Router

__all__ = [
    "check",
    "check_plugins",
    "check_protocol",
    "describe",
    "front_ends",
    "guarded",
    "guards",
    "in_order",
    "on_answer",
    "opened",
    "problems",
    "processes",
    "router",
    "service_plugins",
]


def _made(kind: str, name: str, protocol: type, *args: object) -> object:
    """Call a plugin's factory, and check that its result implements `protocol`. Raises NotFound and DriverError."""
    made: object = discovery.find(kind, name).make(*args)
    check_protocol(made, protocol, f'{kind} plugin "{name}"')
    return made


def check_protocol(made: object, protocol: type, label: str) -> None:
    """Raises DriverError when an object does not implement a Protocol."""
    if wrong := protocols.mismatch(made, protocol):
        raise DriverError(f"cannot use {label}: {wrong}")


def service_plugins(config: Config) -> dict[str, ServicePlugin]:
    """The configured services, sorted by `in_order`. Raises ConfigError, NotFound, DriverError."""
    return in_order({name: cast("ServicePlugin", _made("service", name, kinds.ServicePlugin)) for name in config.services})


def in_order(plugins: Mapping[str, ServicePlugin]) -> dict[str, ServicePlugin]:
    """Sort services: each comes after the services that it requires. Raises ConfigError for a missing service or a cycle."""
    ordered: dict[str, ServicePlugin] = {}
    waiting = dict(plugins)
    while waiting:
        ready = [name for name, plugin in waiting.items() if all(needed in ordered for needed in plugin.requires)]
        if not ready:
            wanted = {name: [each for each in plugin.requires if each not in ordered] for name, plugin in waiting.items()}
            name, missing = next(iter(wanted.items()))
            raise ConfigError(f'cannot open service "{name}": it requires {", ".join(missing)}; see services in daemon.json')
        for name in ready:
            ordered[name] = waiting.pop(name)
    return ordered


@asynccontextmanager
async def processes(plugins: Mapping[str, ServicePlugin], config: Config) -> AsyncIterator[dict[str, Any]]:
    """Start the processes of all services."""
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(plugin.processes(config)) for name, plugin in plugins.items()}


@asynccontextmanager
async def opened(
    plugins: Mapping[str, ServicePlugin], started: Mapping[str, Any], context: Context
) -> AsyncIterator[dict[str, Service]]:
    """Open all services; on exit, close them in reverse order. The fields `services` and `processes` of `context` are
    ignored."""
    services: dict[str, Service] = {}
    async with AsyncExitStack() as stack:
        for name, plugin in plugins.items():
            own = context._replace(services=services, processes=started[name])
            services[name] = await stack.enter_async_context(plugin.open(own))
            if not isinstance(services[name], kinds.Service):
                raise DriverError(f'cannot use service plugin "{name}": {services[name]!r} is not a subclass of Service')
        yield services


def front_ends(context: Context) -> list[FrontEnd]:
    return [cast("FrontEnd", _made("frontend", name, kinds.FrontEnd, context)) for name in context.config.front_ends]


def router(ends: Sequence[FrontEnd]) -> Router:
    """One listener's router: the routes of all front ends, and the first dialect that a front end provides."""
    from orlop_kernel.routing.dialect import PLAIN
    from orlop_kernel.routing.router import Router

    dialect = next((end.dialect for end in ends if end.dialect), PLAIN)
    return Router([route for end in ends for route in end.routes()], dialect)


def check_plugins(config: Config) -> dict[str, CheckPlugin]:
    """Maps the names of the configured plugins to their consistency checks."""
    names = dict.fromkeys((*config.services, *config.front_ends, *config.guards))
    have = discovery.installed("check")
    return {name: cast("CheckPlugin", _made("check", name, kinds.CheckPlugin)) for name in names if name in have}


def problems(config: Config) -> Iterator[Problem]:
    """The problems that prevent the selected plugins from starting with this configuration."""
    for key, kind, names in (
        ("services", "service", config.services),
        ("front-ends", "frontend", config.front_ends),
        ("guards", "guard", config.guards),
    ):
        for name in names:
            try:
                if kind == "frontend":
                    discovery.find(kind, name)
                    continue
                protocol = kinds.ServicePlugin if kind == "service" else kinds.GuardPlugin
                yield from cast("ServicePlugin | GuardPlugin", _made(kind, name, protocol)).problems(config)
            except OrlopError as error:
                yield Problem(str(error), (key,))


def describe(config: Config) -> str:
    """The configured plugins, for the log."""
    kinds = (("services", config.services), ("front ends", config.front_ends), ("guards", config.guards))
    return "; ".join(f"{kind}: {', '.join(names) or 'none'}" for kind, names in kinds)


def check(loaded: Loaded) -> None:
    """Raise one ConfigError for all `problems`, each with the origin of its keys."""
    if found := [loaded.located(problem) for problem in problems(loaded.config)]:
        raise ConfigError(*found)


@asynccontextmanager
async def guards(context: Context) -> AsyncIterator[list[Guards]]:
    """Open the configured guards. Raises ConfigError if `listeners` is set and `guards` is empty, or if a guard cannot be
    opened."""
    config = context.config
    if not config.guards and config.listeners:
        raise ConfigError("listeners need a guard: add a plugin to the key guards in daemon.json")
    async with AsyncExitStack() as stack:
        opened: list[Guards] = []
        for name in config.guards:
            plugin = cast("GuardPlugin", _made("guard", name, kinds.GuardPlugin))
            opened.append(await stack.enter_async_context(plugin.open(context)))
            check_protocol(opened[-1], kinds.Guards, f'guard plugin "{name}"')
        yield opened


def guarded(found: Iterable[Guard | None]) -> Guard | None:
    """Combine several guards into one. The first guard is the outermost: it calls the second guard."""
    chain = [guard for guard in found if guard is not None]
    if len(chain) < 2:
        return chain[0] if chain else None

    async def around(call: Call, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
        for guard in reversed(chain):
            proceed = partial(guard, call, proceed)
        return await proceed()

    return around


def on_answer(services: Iterable[Service]) -> OnAnswer | None:
    """Combine the `on_answer` callbacks of the services into one. None if no service has a callback."""
    listening = [service.on_answer for service in services if service.on_answer is not None]
    if len(listening) < 2:
        return listening[0] if listening else None

    def each(call: Call, status: int, seconds: float) -> None:
        for listener in listening:
            listener(call, status, seconds)

    return each
