"""The front end `docker`: the Engine API's routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orlop_engine.service import EngineService
from orlop_kernel.kinds import Context
from orlop_kernel.routing.router import Route
from orlop_sdk import Register, hookimpl

from . import builds, containers, debug, exec, files, images, networks, plugins, swarm, system, volumes
from . import config as config_routes
from .container_views import ContainerViews
from .dialect import docker_dialect
from .keys import ApiKeys

if TYPE_CHECKING:
    from .builder import Builder

__all__ = ["DockerApi"]

_RESOURCES = (
    config_routes,
    debug,
    exec,
    files,
    images,
    networks,
    plugins,
    swarm,
    volumes,
)


_LATER = ("wire.containers", "wire.container_list", "wire.images")
"""Modules that many requests need, but that the daemon's start does not need: see `orlop_engine.preload`."""


@hookimpl
def orlop_frontend(register: Register) -> None:
    register("docker", DockerApi)


class DockerApi:
    """Implements FrontEnd."""

    def __init__(self, context: Context) -> None:
        service: EngineService = context.services["engine"]
        self._engine = service.engine
        self._builder: Builder | None = context.services.get("build")
        service.preload += [f"{__package__}.{name}" for name in _LATER]
        self.dialect = docker_dialect(context.config.part(ApiKeys).min_api_version)

    def routes(self) -> Iterator[Route]:
        """See FrontEnd."""
        for resource in _RESOURCES:
            yield from resource.routes(self._engine)
        views = ContainerViews(self._engine)
        yield from containers.routes(self._engine, views)
        yield from system.routes(self._engine, views, self._builder)
        yield from builds.routes(self._engine, self._builder)
