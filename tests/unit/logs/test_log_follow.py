"""The daemon's side of `docker logs -f` with the real drivers: inotify, trio's epoll and rotation together."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio

from orlop_engine.logs import LogsRequest, read_logs
from orlop_log_jsonfile import JsonFile
from orlop_log_local import LocalLog
from orlop_monitor.lines import LineSplitter
from orlop_sdk import LogDriver, LogInfo, LogRecord


@pytest.mark.parametrize("driver", [JsonFile(), LocalLog()], ids=["json-file", "local"])
def test_log_follower_gets_all_lines_across_rotations(driver: LogDriver, tmp_path: Path) -> None:
    info = LogInfo("c", "/c", "", "", "", "", str(tmp_path))
    options = {"max-size": "1k", "max-file": "3", "compress": "true"}

    async def main() -> None:
        ended, seen = trio.Event(), b""
        writer, splitter = driver.open_writer(info, options), LineSplitter("stdout")
        request = LogsRequest(multiplexed=False, follow=True)
        with trio.fail_after(20):
            async with read_logs(driver, info, options, request, ended) as stream:
                writer.write(splitter.feed(b"0\n", 1))
                async for chunk in stream:
                    seen += chunk
                    count = seen.count(b"\n")
                    if count < 100:
                        writer.write(splitter.feed(b"%d\n" % count, count))
                    else:
                        writer.write(splitter.feed(b"the end", 100) + splitter.flush(101))
                        writer.close()
                        ended.set()
        assert seen.split(b"\n") == [b"%d" % number for number in range(100)] + [b"the end"]

    trio.run(main)


def test_log_readers_that_hang_do_not_use_up_all_threads() -> None:
    answers = threading.Event()

    class Reader:
        def read(self) -> list[LogRecord]:
            answers.wait(10)
            return []

        def close(self) -> None:
            pass

    driver, info = SimpleNamespace(open_reader=lambda *of: Reader()), LogInfo("c", "/c", "", "", "", "", "/")

    async def main() -> None:
        async def client() -> None:
            async with read_logs(cast("LogDriver", driver), info, {}, LogsRequest(), None) as chunks:
                async for _ in chunks:
                    pass

        with trio.move_on_after(0.3):
            async with trio.open_nursery() as nursery:
                for _ in range(45):  # more than trio's limit of threads
                    nursery.start_soon(client)
        with trio.fail_after(5):
            await trio.to_thread.run_sync(answers.is_set)

    try:
        trio.run(main)
    finally:
        answers.set()
