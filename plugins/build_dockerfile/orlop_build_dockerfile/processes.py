"""Processes whose streams and signals a client controls (`contracts.Backend`), and the values that describe them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from orlop_build_dockerfile.contracts import Step
    from orlop_build_dockerfile.pb.ops_pb2 import ExecOp

__all__ = ["STARTED", "Process", "Processes", "StepContainer", "Streams"]

STARTED = 0
"""The stream of a frame without content, which the client gets first: the process runs."""


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """The streams that the client has. With `terminal`, all output is standard output."""

    terminal: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A further process in a step's container. It has the privileges and limits of the step, and the step's user if `user`
    is empty."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: str = ""
    streams: Streams


class StepContainer(Protocol):
    """A container on its mounts. `run`, which is called once, starts its first process. Further processes can be started
    while the first process runs. Errors are `OrlopError`s and `BuildFailed`. `op` has the command, its environment and its
    user; `client`: see `Processes`."""

    async def run(self, op: ExecOp, streams: Streams, client: int) -> int: ...

    async def execute(self, process: str, op: ExecOp, streams: Streams, client: int) -> int: ...

    async def signal(self, process: str, signal: str) -> None: ...

    async def resize(self, process: str, rows: int, columns: int) -> None: ...


class Processes(Protocol):
    """Steps by names that the builder chooses. `client` is a socket: it gets frames of Docker's multiplexed stream, the
    first of which is `STARTED`, and a write shutdown at the end of the output. Bytes that the client writes to the socket
    are standard input. A write shutdown ends the input of a process without a terminal."""

    async def serve(self, name: str, step: Step, streams: Streams, client: int) -> int:
        """Like `Backend.run`. When the first process ends, the step's further processes end, too."""
        ...

    async def execute(self, name: str, process: str, request: Process, client: int) -> int:
        """Run a further process, with the name `process`, to its end. Returns its exit code. Cancelling kills the
        process."""
        ...

    async def signal(self, name: str, process: str, signal: str) -> None:
        """Send a signal to a process; "" is the name of the step's first process. Does nothing if the process has ended."""
        ...

    async def resize(self, name: str, process: str, rows: int, columns: int) -> None:
        """Set the size of a process's terminal. Does nothing if the process has no terminal, or has ended."""
        ...
