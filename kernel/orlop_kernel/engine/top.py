"""`docker top`: the host's ps, cut down to one container's processes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from orlop_kernel import process
from orlop_kernel.engine.containers.container import Container
from orlop_kernel.engine.containers.launch import task
from orlop_kernel.spi import Command, Conflict, DriverError, InvalidParameter
from orlop_kernel.types.containers import TopResponse

if TYPE_CHECKING:
    from orlop_kernel.engine.containers.service import Containers

__all__ = ["parse", "processes"]

_PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C"))


async def processes(room: Containers, container: Container, ps_args: str) -> TopResponse:
    state = container.record.state
    if not state.running:
        raise Conflict(f"container {container.id} is not running")
    if state.restarting:
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    for found in re.finditer(r"\s*([a-zA-Z0-9_]+)=(PID[^,\s]*)", ps_args):
        if found[1].lower() != "pid":
            raise InvalidParameter(f'specifying "{found[0].strip()}" is not allowed')
    runtime = room.engine.drivers.runtime(container.record.host_config.runtime)
    listed = await process.check(runtime.processes(task(room, container)), f"list processes of container {container.id}")
    pids = msgspec.json.decode(listed.stdout, type=list[int])
    words = ps_args.split()
    selected = f"-q{','.join(map(str, pids))}"
    outcome = await process.run_supervised(Command(("ps", *words, selected), _PATH))
    if outcome.status:
        # Not every selection may be combined with -q: take all processes and choose from them.
        outcome = await process.run_supervised(Command(("ps", *words), _PATH), limit=8 << 20)
    if outcome.status:
        raise DriverError(f"ps: {outcome.stderr.decode('utf-8', 'replace').strip()}")
    return parse(outcome.stdout.decode("utf-8", "replace"), pids)


def parse(output: str, pids: list[int]) -> TopResponse:
    """The lines of ps that belong to `pids`. The last column takes the rest of its line."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise DriverError("Couldn't find PID field in ps output")
    column, wanted = titles.index("PID"), set(pids)
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in wanted:
            rows.append(fields)
    return TopResponse(titles=titles, processes=rows)
