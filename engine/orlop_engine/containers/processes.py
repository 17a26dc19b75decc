"""`docker top`: the output of the host's ps, limited to one container's processes."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec
import trio

from orlop_engine import commands
from orlop_engine.calls import asked
from orlop_sdk import Command, Conflict, DriverError, InvalidParameter, Outcome

from .container import Container
from .ports import Ports
from .runtime import task

__all__ = ["ProcessTable", "parse", "processes"]

_OUTPUT = 8 << 20
# seconds to wait for the record of an exit after the runtime has failed, because it fails if the container has exited
_EXIT_RECORDED = 1.0
_PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C"))


class ProcessTable(NamedTuple):
    """The output of ps: the titles of its columns, and one row for each process."""

    titles: list[str]
    rows: list[list[str]]


async def processes(ports: Ports, container: Container, ps_args: str, *, apart: bool = False) -> ProcessTable:
    """List a container's processes with the host's ps. If `apart` is true, ps is never run on processes outside the
    container. If `apart` is false and ps refuses the list of pids, all processes of the host are listed, and the lines are
    filtered by the column PID. This filter is not safe, because a blank in an earlier column (such as a process's name)
    shifts the columns."""
    state = container.record.state
    if not state.running:
        raise Conflict(f"container {container.id} is not running")
    if state.restarting:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    for found in re.finditer(r"\s+(\S*)=\s*(PID\S*)", ps_args):
        if found[1] != "pid":
            raise InvalidParameter(f'specifying "{found[1]}={found[2]}" is not allowed')
    pids = await _pids(ports, container)
    if not pids:
        raise Conflict(f"container {container.id} is not running")
    words = ps_args.split()
    outcome = await _ps(*words, f"-q{','.join(map(str, pids))}")
    if outcome.status and not apart:
        # Some of ps's options that select processes cannot be combined with -q, so list all processes and filter the list.
        outcome = await _ps(*words)
    # With `apart`, ps fails without a message if it finds no process. Then all processes have ended: return only the titles
    if outcome.status and (outcome.stderr or not apart):
        raise DriverError(outcome.stderr.decode("utf-8", "replace").strip().partition("\n")[0] or "ps failed")
    return parse(outcome.stdout.decode("utf-8", "replace"), pids)


async def _pids(ports: Ports, container: Container) -> list[int]:
    """The pids of the container's processes, from the runtime. The list is empty if the last process has just ended. At that
    moment runc prints `null`, or fails because it has already deleted its state of the container. The daemon may not have
    recorded the exit yet."""
    run = container.run
    runtime = await ports.drivers.runtime(*container.record.runtime)
    what = f"list processes of container {container.id}"
    try:
        command = await asked(runtime.processes, task(ports.paths, container))
        listed = await commands.check(command, what, limit=_OUTPUT)
    except DriverError:
        if run is not None:
            with trio.move_on_after(_EXIT_RECORDED):
                await run.finished.wait()
                return []
        raise
    try:
        return msgspec.json.decode(listed.stdout, type=list[int] | None) or []
    except msgspec.MsgspecError as error:
        raise DriverError(f"cannot {what}: cannot read the runtime's list of processes: {error}") from None


async def _ps(*arguments: str) -> Outcome:
    """Run ps on this host, not in the container."""
    try:
        return await commands.run_supervised(Command(("ps", *arguments), _PATH, timeout=30), limit=_OUTPUT)
    except FileNotFoundError:
        raise DriverError("cannot list processes: ps is not installed on the host (procps)") from None
    except OSError as error:  # for example if there are more arguments than the kernel accepts
        return Outcome(1, stderr=f"ps: {error.strerror}".encode())


def parse(output: str, pids: list[int]) -> ProcessTable:
    """Select the lines of ps that belong to `pids`, and those of their threads, in which the pid is missing. The last
    column contains the rest of the line, which may have blanks."""
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
    return ProcessTable(titles, rows)
