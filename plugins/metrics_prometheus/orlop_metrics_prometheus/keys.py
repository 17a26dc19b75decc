"""The metrics service's key of daemon.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from orlop_kernel.config import Config, Keys, Problem
from orlop_kernel.config.flags import STRING, flag
from orlop_sdk import Register, hookimpl

__all__ = ["MetricsKeys"]


class MetricsKeys(Keys, frozen=True, kw_only=True):
    metrics_addr: str = ""

    FLAGS: ClassVar = (
        flag("metrics-addr", STRING, "Address at which to serve metrics for Prometheus, such as 127.0.0.1:9323"),
    )

    def problems(self, config: Config) -> Iterator[Problem]:
        """See Keys."""
        _, colon, port = self.metrics_addr.rpartition(":")
        if self.metrics_addr and not (colon and port.isdecimal() and 0 < int(port) < 65536):
            yield Problem(f'invalid metrics-addr "{self.metrics_addr}": host:port is needed', ("metrics-addr",))


@hookimpl
def orlop_keys(register: Register) -> None:
    register("metrics", MetricsKeys)
