"""The daemon's side of `docker logs -f` over the real drivers: inotify, trio's epoll and rotation together."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from orlop_kernel.engine.logs import LogsRequest, read_logs
from orlop_kernel.monitor.lines import LineSplitter
from orlop_kernel.spi import LogDriver, LogInfo
from orlop_log_jsonfile import JsonFile
from orlop_log_local import LocalLog


@pytest.mark.parametrize("driver", [JsonFile(), LocalLog()], ids=["json-file", "local"])
def test_follow_a_rotating_log(driver: LogDriver, tmp_path: Path) -> None:
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
