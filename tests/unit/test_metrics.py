"""Metrics: formats, values, and the default (off); access to the debug routes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from orlop_api_docker import debug
from orlop_engine.counters import Counters
from orlop_engine.locks import StateLock
from orlop_kernel.boot import dump
from orlop_kernel.config import ConfigError, load
from orlop_kernel.events import EventBus
from orlop_kernel.http.messages import Peer, Request, Response
from orlop_kernel.routing.call import Call
from orlop_metrics_prometheus.collect import Metrics
from orlop_metrics_prometheus.keys import MetricsKeys
from orlop_metrics_prometheus.registry import Histogram, Values, expose, wants_openmetrics
from orlop_metrics_prometheus.serve import Endpoint
from orlop_monitor.zygote import reset_oom_score
from orlop_sdk import Conflict, InvalidParameter, NotFound


def text(*families: Any, openmetrics: bool = False) -> str:
    return expose(families, openmetrics=openmetrics).decode()


# --- the formats ------------------------------------------------------------------------------------------------------


def test_metric_values_and_labels_are_written_in_the_prometheus_text_format() -> None:
    odd = {('a\\b\n"c"',): 1, ("none",): math.nan, ("much",): math.inf, ("part",): 0.25, ("big",): 1 << 60}
    found = text(Values("gauge", "odd", 'say "a\\b"\nc', lambda: odd, ("what",)))
    assert found.splitlines() == [
        '# HELP odd say "a\\\\b"\\nc',
        "# TYPE odd gauge",
        'odd{what="a\\\\b\\n\\"c\\""} 1',
        'odd{what="none"} NaN',
        'odd{what="much"} +Inf',
        'odd{what="part"} 0.25',
        f'odd{{what="big"}} {1 << 60}',
    ]


def test_histogram_is_written_in_prometheus_and_openmetrics_format() -> None:
    histogram = Histogram("took_seconds", "How long", ("what",), [("rest",)], buckets=(0.1, 1.0))
    for seconds in (0.1, 0.5, 7.0):
        histogram.observe(seconds, "work")
    assert text(histogram).splitlines() == [
        "# HELP took_seconds How long",
        "# TYPE took_seconds histogram",
        'took_seconds_bucket{what="rest",le="0.1"} 0',
        'took_seconds_bucket{what="rest",le="1"} 0',
        'took_seconds_bucket{what="rest",le="+Inf"} 0',
        'took_seconds_sum{what="rest"} 0',
        'took_seconds_count{what="rest"} 0',
        'took_seconds_bucket{what="work",le="0.1"} 1',
        'took_seconds_bucket{what="work",le="1"} 2',
        'took_seconds_bucket{what="work",le="+Inf"} 3',
        'took_seconds_sum{what="work"} 7.6',
        'took_seconds_count{what="work"} 3',
    ]
    assert 'took_seconds_bucket{what="work",le="1.0"} 2' in text(histogram, openmetrics=True)


def test_openmetrics_text_ends_with_eof_and_shows_counters_without_total_in_type_lines() -> None:
    counter = Values("counter", "events_total", 'with "quotes"', lambda: 3)
    gauge = Values("gauge", "a_gauge_total", "Docker's", lambda: 1)
    assert text(counter, gauge, openmetrics=True).splitlines() == [
        "# HELP a_gauge_total Docker's",
        "# TYPE a_gauge_total gauge",
        "a_gauge_total 1",
        '# HELP events with \\"quotes\\"',
        "# TYPE events counter",
        "events_total 3",
        "# EOF",
    ]
    assert "# TYPE events_total counter" in text(counter)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1", True),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=x", False),
    ],
)
def test_accept_header_selects_prometheus_or_openmetrics_format(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted


# --- values -----------------------------------------------------------------------------------------------------------


def test_counters_include_successes_and_failures_but_not_cancelled_operations() -> None:
    told: list[tuple[str, str]] = []

    async def main() -> None:
        counters = Counters()
        with counters.timed("container", "start"):
            pass
        counters.observe = lambda kind, action, seconds: told.append((kind, action))
        with counters.timed("container", "start"):
            pass
        with pytest.raises(Conflict), counters.timed("container", "start"):
            raise Conflict("no")
        with trio.CancelScope() as scope:
            scope.cancel()
            with counters.timed("image", "pull"):
                await trio.sleep(1)
        counters.checked(True)
        counters.checked(False)
        assert counters.actions == {("container", "start"): 2}
        assert counters.failures == {("container", "start"): 1}
        assert (counters.health_checks, counters.health_checks_failed) == (2, 1)

    trio.run(main)
    assert told == [("container", "start")]


class FakeIndex(list[Any]):
    counts: Any


def fake_engine(tmp_path: Path, **config: Any) -> Any:
    monitor = SimpleNamespace(run=SimpleNamespace(monitor=object()))
    index = FakeIndex([monitor, SimpleNamespace(run=None)])
    index.counts = lambda: {"total": 3, "running": 1, "paused": 0, "stopped": 2}
    gate = SimpleNamespace(failures=Counter(deadline=3), degraded=True, abandoned=2)
    counters = Counters()
    counters.log_lost[("json-file",)] = 4
    return SimpleNamespace(
        config=SimpleNamespace(data_root=str(tmp_path), debug=False, **config),
        counters=counters,
        store=SimpleNamespace(on_commit=None),
        storage_name="overlay2",
        events=EventBus(),
        containers=SimpleNamespace(index=index),
        images=SimpleNamespace(count=0),
        execs=SimpleNamespace(index={}),
        zygote=SimpleNamespace(pid=7),
        drivers=SimpleNamespace(gates={("network", "mine"): gate}),
    )


def request(method: str = "GET", path: str = "/metrics", **query: str) -> Request:
    return Request(method, path, path, {key: [value] for key, value in query.items()}, {}, None, Peer("unix"))  # type: ignore[arg-type]


def test_each_request_for_metrics_collects_current_values(tmp_path: Path) -> None:
    async def main() -> None:
        engine = fake_engine(tmp_path)
        metrics = Metrics(engine)
        metrics.attach()
        metrics.answered(Call(request(path="/commit", method="POST"), (1, 51), {}, "/commit"), 201, 0.2)
        metrics.answered(Call(request(path="/commit", method="POST"), (1, 51), {}, "/commit"), 404, 0.1)
        engine.store.on_commit(3, 0.002)
        with engine.counters.timed("network", "allocate"), engine.counters.timed("ship", "steer"):
            engine.events.publish("container", "start", "a", {})
        answer = await Endpoint(metrics)(request())
        assert isinstance(answer, Response)
        found = answer.body.decode()
        for line in (
            'engine_daemon_container_actions_seconds_count{action="commit"} 1',
            'engine_daemon_network_actions_seconds_count{action="allocate"} 1',
            'engine_daemon_container_states_containers{state="stopped"} 2',
            'orlop_api_requests_total{method="POST",route="/commit",code="404"} 1',
            'orlop_api_request_seconds_count{method="POST",route="/commit"} 2',
            "engine_daemon_events_total 1",
            "orlop_store_commits_total 3",
            "orlop_store_transactions_total 1",
            "orlop_store_commit_seconds_count 1",
            "orlop_monitors 1",
            'orlop_driver_failures_total{kind="network",driver="mine",reason="deadline"} 3',
            'orlop_driver_failures_total{kind="network",driver="mine",reason="exception"} 0',
            'orlop_log_lost_entries_total{driver="json-file"} 4',
            'orlop_driver_degraded{kind="network",driver="mine"} 1',
            'orlop_driver_abandoned_calls{kind="network",driver="mine"} 2',
        ):
            assert f"\n{line}\n" in found

        engine.containers.index.counts = dict  # causes an error, which only fails the request for metrics
        answer = await Endpoint(metrics)(request())
        assert isinstance(answer, Response)
        assert answer.status == 500
        for wrong, status in ((request(path="/"), 404), (request("POST"), 405)):
            answer = await Endpoint(metrics)(wrong)
            assert isinstance(answer, Response)
            assert answer.status == status

    trio.run(main)


def test_event_loop_lag_is_measured(tmp_path: Path) -> None:
    async def main() -> None:
        metrics = Metrics(fake_engine(tmp_path))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(metrics.watch_lag)
            await trio.sleep(3.5)
            nursery.cancel_scope.cancel()
        assert "\norlop_loop_lag_seconds_count 3\n" in text(*metrics.families)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_metrics_server_is_not_imported_if_metrics_addr_is_not_set() -> None:
    program = (
        "import sys, orlop_kernel.daemon, orlop_engine.service, orlop_metrics_prometheus.plugin\n"
        "print(sorted(name for name in sys.modules if name.startswith('orlop_metrics_prometheus')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "['orlop_metrics_prometheus', 'orlop_metrics_prometheus.keys', 'orlop_metrics_prometheus.plugin']"
    )


@pytest.mark.parametrize("address", ["9323", "localhost", "localhost:", ":x", "127.0.0.1:0", "127.0.0.1:65536"])
def test_metrics_addr_without_a_port_is_refused(address: str, tmp_path: Path) -> None:
    empty = tmp_path / "daemon.json"
    empty.write_text("{}")
    with pytest.raises(ConfigError, match="invalid metrics-addr"):
        load(["--config-file", str(empty), "--metrics-addr", address], {})
    assert (
        load(["--config-file", str(empty), "--metrics-addr", "[::1]:9323"], {}).part(MetricsKeys).metrics_addr
        == "[::1]:9323"
    )


# --- debug routes -----------------------------------------------------------------------------------------------------


def test_debug_routes_exist_only_if_debug_is_set(tmp_path: Path) -> None:
    async def main() -> None:
        engine = fake_engine(tmp_path)
        found = {route.pattern: route.handler for route in debug.routes(engine)}
        call = Call(request(), (1, 51), {"name": "goroutine"})
        for handler in found.values():
            with pytest.raises(NotFound, match=r"^page not found$"):
                await handler(call)
        engine.config.debug = True
        answer = await found["/debug/pprof/{name}"](call)
        assert isinstance(answer, Response)
        assert b"task " in answer.body
        with pytest.raises(NotFound, match="unknown profile: heap"):
            await found["/debug/pprof/{name}"](Call(request(), (1, 51), {"name": "heap"}))
        with pytest.raises(InvalidParameter, match="between 1 and 300"):
            await found["/debug/pprof/{name}"](Call(request(seconds="301"), (1, 51), {"name": "profile"}))

    trio.run(main)


def test_lock_reports_its_holder_and_duration() -> None:
    async def hold(lock: StateLock, seconds: float) -> None:
        async with lock:
            await trio.sleep(seconds)

    async def main() -> None:
        lock = StateLock()
        assert (lock.owner, lock.held_for) == (None, 0.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, lock, 5)
            nursery.start_soon(hold, lock, 5)
            await trio.sleep(2)
            assert lock.waiting == 1
            assert lock.owner is not None
            assert lock.owner.name.endswith("hold")
            assert lock.held_for == pytest.approx(2)
            assert dump.where(lock.owner)[0].startswith("test_lock_reports_its_holder_and_duration.<locals>.hold (unit/")
            await trio.sleep(4)
            assert (lock.waiting, lock.held_for) == (0, pytest.approx(1))
        assert not lock.locked()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_debug_dump_shows_tasks_and_threads(tmp_path: Path) -> None:
    async def main() -> None:
        done = trio.Event()

        def wait_in_a_thread() -> None:
            trio.from_thread.run(done.wait)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, wait_in_a_thread)
            await trio.testing.wait_all_tasks_blocked(0.05)
            path = Path(dump.write(str(tmp_path)))
            done.set()
        assert path.stat().st_mode & 0o777 == 0o600
        found = path.read_text()
        assert "wait_in_a_thread" in found[found.index("\nthread ") :]
        assert "task " in found[: found.index("\nthread ")]

    trio.run(main)


# --- OOM scores -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), [("-500\n", 0), ("0\n", 0), ("300\n", 300)])
def test_zygotes_inherited_oom_score_is_reset(tmp_path: Path, before: str, after: int) -> None:
    score = tmp_path / "oom_score_adj"
    score.write_text(before)
    reset_oom_score(str(score))
    assert int(score.read_text().splitlines()[0]) == after
