"""`GET /metrics` at `metrics-addr`: plain HTTP without access control, and no other route."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING

import trio

from orlop_kernel.config import ConfigError
from orlop_kernel.http.listeners import open_tcp_listeners
from orlop_kernel.http.messages import Answer, Limits, Request, Response
from orlop_kernel.http.server import Server

from .collect import Metrics
from .registry import OPENMETRICS, TEXT, expose, wants_openmetrics

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["start"]

_log = logging.getLogger("orlop.metrics")
_PLAIN = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))


class Endpoint:
    """The HTTP handler."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, request: Request) -> Answer:
        if request.path != "/metrics":
            return Response(404, b"404 page not found\n", _PLAIN)
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET is known here\n", (*_PLAIN, ("Allow", "GET, HEAD")))
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        try:
            body = expose(self._metrics.families, openmetrics=openmetrics)
        except Exception:
            _log.exception("cannot collect metrics")
            self._metrics.scraped(500)
            return Response(500, b"cannot collect metrics: the daemon's log says why\n", _PLAIN)
        self._metrics.scraped(200)
        return Response(200, body, (("Content-Type", OPENMETRICS if openmetrics else TEXT),))


async def start(address: str, engine: Engine, nursery: trio.Nursery, limits: Limits | None = None) -> Metrics:
    """Start measuring, and serve at this address in the nursery until it is cancelled. Raises `ConfigError` when the address
    cannot be bound."""
    host, _, port = address.rpartition(":")
    try:
        listeners = await open_tcp_listeners(host.strip("[]"), int(port))
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {address}: {error.strerror or error}") from error
    bound = [listener.socket.getsockname()[0] for listener in listeners]
    if not all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in bound):
        _log.warning("metrics-addr: anyone who can reach %s can read the metrics of this daemon", address)
    metrics = Metrics(engine)
    metrics.attach()
    nursery.start_soon(metrics.watch_lag)
    await nursery.start(Server(Endpoint(metrics), limits).serve, listeners)
    _log.info("metrics are at http://%s/metrics", address)
    return metrics
