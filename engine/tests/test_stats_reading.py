"""Converting cgroup files to stats, on trees of ordinary files; and the sampling task."""

from contextlib import aclosing
from pathlib import Path

from engine_fixture import engine_fixture, run_fast

from orlop_engine.stats import reading
from orlop_engine.stats.reading import Source
from orlop_engine.stats.service import Stats


def tree(base: Path, files: dict[str, str]) -> str:
    base.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (base / name).write_text(text)
    return str(base)


V2 = {
    "cpu.stat": "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 5\nnr_throttled 2\nthrottled_usec 7\n",
    "memory.current": "1048576\n",
    "memory.max": "max\n",
    "memory.stat": "anon 4096\ninactive_file 12\n",
    "memory.events": "low 0\noom 3\noom_kill 1\n",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1\n8:16 \n",
    "pids.current": "4\n",
    "pids.max": "max\n",
}


def test_stats_are_read_from_cgroup_v2(tmp_path):
    found = Source.find([tree(tmp_path / "c", V2)]).read()
    times = {"total": 3_000_000, "kernel": 1_000_000, "user": 2_000_000}
    assert found.cpu == reading.Cpu(**times, periods=5, throttled_periods=2, throttled=7000)
    assert found.memory == reading.Memory(1 << 20, reading.host_memory(), {"anon": 4096, "inactive_file": 12}, failures=3)
    assert found.pids == (4, None) and found.version == 2
    assert found.io == [(8, 0, "read", 10), (8, 0, "write", 20)]


def test_stats_are_read_from_cgroup_v1_on_a_hybrid_host(tmp_path):
    source = Source.find(
        [
            tree(tmp_path / "unified", {"cgroup.procs": "", "cpu.stat": "usage_usec 9\n"}),
            tree(
                tmp_path / "cpu",
                {
                    "cpuacct.usage": "300\n",
                    "cpuacct.usage_percpu": "100 200 \n",
                    "cpuacct.stat": "user 2\nsystem 1\n",
                    "cpu.cfs_quota_us": "-1\n",
                    "cpu.stat": "nr_periods 1\nnr_throttled 0\nthrottled_time 4\n",
                },
            ),
            tree(
                tmp_path / "memory",
                {
                    "memory.usage_in_bytes": "5\n",
                    "memory.max_usage_in_bytes": "6\n",
                    "memory.limit_in_bytes": "9223372036854771712\n",
                    "memory.failcnt": "0\n",
                    "memory.stat": "total_inactive_file 2\n",
                },
            ),
            tree(
                tmp_path / "blkio",
                {"blkio.throttle.io_service_bytes": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n"},
            ),
            tree(tmp_path / "pids", {"pids.current": "1\n", "pids.max": "50\n"}),
        ]
    )
    assert not source.unified
    found = source.read()
    assert (found.version, found.cpu.each, found.cpu.throttled) == (1, [100, 200], 4)
    assert (found.memory.limit, found.memory.highest, found.memory.failures) == (reading.host_memory(), 6, 0)
    assert [entry.operation for entry in found.io] == ["Read", "Write", "Total"]
    assert found.pids == (1, 50)


def test_stats_of_a_removed_cgroup_are_zero(tmp_path):
    source = Source.find([tree(tmp_path / "c", V2)])
    for file in (tmp_path / "c").iterdir():
        file.unlink()
    found = source.read()
    assert found.cpu.total == 0 and found.pids == (0, None)
    assert Source.find([str(tmp_path / "never")]) == Source()


def test_processor_time_of_the_host_is_read():
    assert reading.system_cpu(2) > reading.system_cpu(1) > 0 and reading.online_cpus() >= 1
    assert "lo" not in reading.networks(1)


# --- the sampling task ----------------------------------------------------------------------------------------------


def test_failure_of_one_sampling_loses_only_one_sample(tmp_path, monkeypatch, caplog):
    failing = []

    async def sample(stats, watched):
        if failing:
            raise RuntimeError(failing.pop())
        for item in watched:
            item.latest = (*(item.latest or ()), ".")

    monkeypatch.setattr(Stats, "_sample", sample)

    async def main():
        async with (
            engine_fixture(tmp_path, monkeypatch) as h,
            aclosing(Stats(h.index, h.engine.nursery).stream(h.container)) as stream,
        ):
            assert await anext(stream) == (".",)
            failing[:] = ["can't start new thread"] * 2
            assert [await anext(stream) for _ in range(3)] == [(".",), (".",), (".", ".")]
            assert len(caplog.records) == 1

    run_fast(main)
