"""`docker top`: the host's ps, cut down to one container's processes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_engine.containers.container import Container
from orlop_engine.containers.launch import task
from orlop_engine.types.containers import TopResponse
from orlop_kernel import process
from orlop_sdk import Command, Conflict, DriverError, InvalidParameter, Outcome

if TYPE_CHECKING:
    from orlop_engine.containers.service import Containers

__all__ = ["parse", "processes"]

_OUTPUT = 8 << 20
_EXIT_RECORDED = 1.0  # seconds that an exit which made the runtime fail may take to be recorded
_PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C"))


async def processes(containers: Containers, container: Container, ps_args: str, *, apart: bool = False) -> TopResponse:
    """`apart`: ps is never asked about more than the container's processes. Which lines are theirs can be told by the column
    PID alone, which a blank in a column before it, such as a process's name, moves."""
    state = container.record.state
    if not state.running:
        raise Conflict(f"container {container.id} is not running")
    if state.restarting:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    for found in re.finditer(r"\s+(\S*)=\s*(PID\S*)", ps_args):
        if found[1] != "pid":
            raise InvalidParameter(f'specifying "{found[1]}={found[2]}" is not allowed')
    pids = await _pids(containers, container)
    if not pids:
        raise Conflict(f"container {container.id} is not running")
    words = ps_args.split()
    outcome = await _ps(*words, f"-q{','.join(map(str, pids))}")
    if outcome.status and not apart:
        # Not every selection may be combined with -q: take all processes and choose from them.
        outcome = await _ps(*words)
    if outcome.status and (outcome.stderr or not apart):  # else they have all ended meanwhile: there are titles alone
        raise DriverError(outcome.stderr.decode("utf-8", "replace").strip().partition("\n")[0] or "ps failed")
    return parse(outcome.stdout.decode("utf-8", "replace"), pids)


async def _pids(containers: Containers, container: Container) -> list[int]:
    """Of the container's processes, as the runtime lists them. Empty when the last one has just ended: runc then prints
    `null`, or no longer knows the container before its exit is recorded here."""
    run = container.run
    runtime = containers.engine.drivers.runtime(container.record.host_config.runtime)
    what = f"list processes of container {container.id}"
    try:
        listed = await process.check(runtime.processes(task(containers, container)), what, limit=_OUTPUT)
    except DriverError:
        if run is not None:
            with trio.move_on_after(_EXIT_RECORDED):
                await run.finished.wait()
                return []
        raise
    try:
        return msgspec.json.decode(listed.stdout, type=list[int] | None) or []
    except msgspec.MsgspecError as error:
        raise DriverError(f"cannot {what}: the runtime's list: {error}") from None


async def _ps(*arguments: str) -> Outcome:
    """Of this host, not of the container."""
    try:
        return await process.run_supervised(Command(("ps", *arguments), _PATH, timeout=30), limit=_OUTPUT)
    except FileNotFoundError:
        raise DriverError("cannot list processes: ps is not installed on the host (procps)") from None
    except OSError as error:  # more arguments than the kernel takes, for instance
        return Outcome(1, stderr=f"ps: {error.strerror}".encode())


def parse(output: str, pids: list[int]) -> TopResponse:
    """The lines of ps that belong to `pids`, and those of their threads, which have no pid. The last column takes the rest
    of its line."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise DriverError("Couldn't find PID field in ps output")
    column, wanted = titles.index("PID"), set(pids)
    rows, ours = [], False
    for line in lines[1:]:
        fields = line.split()
        if len(fields) <= column:
            continue
        if fields[column] != "-":
            ours = fields[column].isdigit() and int(fields[column]) in wanted
        if ours:
            rows.append([*fields[: len(titles) - 1], " ".join(fields[len(titles) - 1 :])])
    return TopResponse(titles=titles, processes=rows)
