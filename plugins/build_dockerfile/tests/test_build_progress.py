"""The reports of a build: limits of output and of kept reports, errors of vertices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest
import trio

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.control.logs import SIZE, SPEED, LogLimit
from orlop_build_dockerfile.control.progress import KEEP, MOST, BuildProgress
from orlop_build_dockerfile.pb import control_pb2


def test_size_and_speed_of_build_output_are_limited() -> None:
    limit = LogLimit(0)
    assert limit.take(b"x", 0.5) == b"x"
    cut = limit.take(bytes(SPEED), 0.6)
    assert cut.endswith(b"\n[output clipped, log limit 200KiB/s reached]\n")
    assert cut.count(b"\0") == SPEED - 1
    assert limit.take(b"more", 0.7) == b""
    assert limit.take(b"later", 1.5) == b"later"
    fast = LogLimit(0)
    total = b"".join(fast.take(bytes(100_000), second) for second in range(1, 60))
    assert total.count(b"\0") == SIZE
    assert total.endswith(b"\n[output clipped, log limit 2MiB reached]\n")
    assert total.count(b"clipped") == 1


def _report(size: int) -> control_pb2.StatusResponse:
    return control_pb2.StatusResponse(logs=[control_pb2.VertexLog(msg=bytes(size))])


def test_memory_for_unread_progress_reports_is_bounded() -> None:
    async def main() -> None:
        progress = BuildProgress()
        slow = progress.read()
        progress.report(_report(1))
        await anext(slow)
        for _ in range(MOST // 100_000 * 2):
            progress.report(_report(100_000), output=True)
        assert progress._size < MOST + 200_000  # limit for a slow reader
        kept = len([raw async for raw in _all(slow, MOST)])
        assert kept > 100
        progress.report(_report(1))
        assert progress._size < KEEP
        progress.close()
        await slow.aclose()
        assert not progress._readers

    async def _all(reports: AsyncGenerator[bytes, None], most: int) -> AsyncIterator[bytes]:
        total = 0
        while total < most - 500_000:
            raw = await anext(reports)
            total += len(raw)
            yield raw

    trio.run(main)


def test_failed_and_cancelled_vertices_report_their_error() -> None:
    async def main() -> None:
        progress = BuildProgress()
        with pytest.raises(BuildFailed):
            async with progress.vertex("d", "n", []):
                raise BuildFailed("why")
        with pytest.raises(ExceptionGroup):
            async with progress.vertex("d", "n", []):
                raise ExceptionGroup("", [ValueError("other"), BuildFailed("inner")])
        with trio.move_on_after(0):
            async with progress.vertex("d", "n", []), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        progress.close()
        merged = control_pb2.StatusResponse.FromString(b"".join([raw async for raw in progress.read()]))
        assert [v.error for v in merged.vertexes if v.completed.seconds] == ["why", "inner", "context canceled"]

    trio.run(main)
