"""The hooks of the consistency check: its routes in a running daemon, and `orlopd --check` without a daemon."""

from __future__ import annotations

from collections.abc import Sequence

from orlop_kernel.config import Config
from orlop_kernel.kinds import Context
from orlop_kernel.routing.router import Route
from orlop_sdk import Register, hookimpl

__all__ = ["CheckRoutes", "offline"]


@hookimpl
def orlop_frontend(register: Register) -> None:
    register("check", CheckRoutes)


@hookimpl
def orlop_command(register: Register) -> None:
    register("check", offline)


def offline(config: Config, words: Sequence[str]) -> int:
    """`orlopd --check`: see orlop_check.offline."""
    from .offline import main

    return main(config, words)


class CheckRoutes:
    """Implements FrontEnd."""

    dialect = None

    def __init__(self, context: Context) -> None:
        self._context = context

    def routes(self) -> list[Route]:
        """See FrontEnd."""
        from .routes import routes

        return routes(self._context)
