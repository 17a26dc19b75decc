"""The measures. Each is a function that gets an engine and returns seconds, or MB if the row of the measure says so."""

from __future__ import annotations

import json
import math
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orlop_sdk.testing.log_services import RecordingService

from . import builds, images, large, storage
from .engines import Connection, Engine, timed

__all__ = ["ALL", "IMAGE", "Measure"]

IMAGE = "bench/busybox:latest"
LINES = 1_000_000
BYTES = 200_000_000
_LINE = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz0"


@dataclass(frozen=True)
class Measure:
    """`bound` is the highest accepted ratio of the last of `engines` to the first of them. For memory, it is a number of
    megabytes; for the unit "x", it is a bound for Orlop's own value. `rounds` is the number of measurements per engine."""

    key: str
    label: str
    bound: float
    run: Callable[[Engine], float]
    rounds: int = 5
    unit: str = "ms"
    engines: tuple[str, ...] = ("dockerd", "orlop")


def run_bridge(engine: Engine) -> float:
    return timed(lambda: engine.docker("run", "--rm", IMAGE, "true"))


def run_none(engine: Engine) -> float:
    return timed(lambda: engine.docker("run", "--rm", "--network", "none", IMAGE, "true"))


def exec_true(engine: Engine) -> float:
    engine.docker("run", "-d", "--name", "exec-bench", IMAGE, "sleep", "1000")
    try:
        engine.docker("exec", "exec-bench", "true")
        times = [timed(lambda: engine.docker("exec", "exec-bench", "true")) for _ in range(5)]
        return sorted(times)[2]
    finally:
        engine.docker("rm", "-f", "exec-bench")


def _fifty(engine: Engine, words: Callable[[int], list[str]]) -> float:
    def all_of_them() -> None:
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(lambda n: engine.docker(*words(n)), range(50)):
                pass

    return timed(all_of_them)


def start_fifty(engine: Engine) -> float:
    try:
        return _fifty(engine, lambda n: ["run", "-d", "--name", f"many-{n}", IMAGE, "sleep", "1000"])
    finally:
        _fifty(engine, lambda n: ["rm", "-f", f"many-{n}"])


def remove_fifty(engine: Engine) -> float:
    _fifty(engine, lambda n: ["run", "-d", "--name", f"many-{n}", IMAGE, "sleep", "1000"])
    return _fifty(engine, lambda n: ["rm", "-f", f"many-{n}"])


def ping(engine: Engine) -> float:
    """Seconds per request, with 8 keep-alive connections that each always have one request in flight."""
    request = b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n"
    socks = []
    for _ in range(8):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(engine.socket)
        socks.append(sock)
    done, total = 0, 16_000
    poll = select.epoll()
    by_fd = {sock.fileno(): sock for sock in socks}
    for sock in socks:
        poll.register(sock, select.EPOLLIN)
    began = time.perf_counter()
    for sock in socks:
        sock.send(request)
    while done < total:
        for fd, _ in poll.poll():
            if by_fd[fd].recv(65536).endswith(b"OK"):
                done += 1
                by_fd[fd].send(request)
    took = time.perf_counter() - began
    for sock in socks:
        sock.close()
    return took / total


def _keep_alive(engine: Engine, path: str, times: int) -> float:
    connection = Connection(engine.socket)
    for _ in range(20):
        connection.request("GET", path)
        connection.getresponse().read()

    def loop() -> None:
        for _ in range(times):
            connection.request("GET", path)
            connection.getresponse().read()

    took = timed(loop) / times
    connection.close()
    return took


def with_fifty(measure: Callable[[Engine], float]) -> Callable[[Engine], float]:
    """Measure while fifty containers run. The containers stay for later measures that need them."""

    def measured(engine: Engine) -> float:
        have = len(json.loads(engine.get("/containers/json")))
        if have < 50:
            _fifty(engine, lambda n: ["run", "-d", "--name", f"stay-{n}", IMAGE, "sleep", "10000"])
        return measure(engine)

    return measured


def list_fifty(engine: Engine) -> float:
    return _keep_alive(engine, "/containers/json", 300)


def inspect(engine: Engine) -> float:
    return _keep_alive(engine, "/containers/stay-0/json", 1000)


def ps_fifty(engine: Engine) -> float:
    return timed(lambda: engine.docker("ps"))


def stats_fifty(engine: Engine) -> float:
    """The client itself waits for half a second; with both engines, this is part of the time."""
    return timed(lambda: engine.docker("stats", "--no-stream"))


def stats_fifty_own(engine: Engine) -> float:
    return timed(lambda: engine.own("stats", "--no-stream"))


def memory_per_container(engine: Engine) -> float:
    with_fifty_running = engine.memory()
    _fifty(engine, lambda n: ["rm", "-f", f"stay-{n}"])
    time.sleep(1)
    return (with_fifty_running - engine.memory()) / 50


def memory_idle(engine: Engine) -> float:
    return engine.memory()


def write_lines(engine: Engine) -> float:
    script = f"yes {_LINE} | head -n {LINES}"
    return timed(lambda: _run_to_exit(engine, "lines", script))


def write_to_syslog(engine: Engine) -> float:
    """Writes to a service that only counts lines, so that the speed of the service does not matter."""
    script = f"yes {_LINE} | head -n {LINES}"
    with RecordingService("tcp", keeps=False) as service:
        options = ("--log-driver=syslog", f"--log-opt=syslog-address={service.address}")

        def work() -> None:
            _run_to_exit(engine, "lines", script, *options)
            while service.lines < LINES:  # dockerd closes its driver after the container's exit
                time.sleep(0.001)

        return timed(work)


def _run_to_exit(engine: Engine, name: str, script: str, *options: str) -> None:
    engine.docker("run", "-d", "--name", name, *options, IMAGE, "sh", "-c", script)
    engine.docker("wait", name)
    engine.docker("rm", "-f", name)


def read_lines(engine: Engine) -> float:
    if not json.loads(engine.get('/containers/json?all=1&filters={"name":{"kept-lines":true}}')):
        engine.docker("run", "-d", "--name", "kept-lines", IMAGE, "sh", "-c", f"yes {_LINE} | head -n {LINES}")
        engine.docker("wait", "kept-lines")
    with open(os.devnull, "wb") as nothing:
        return timed(lambda: engine.docker("logs", "kept-lines", stdout=nothing))


def zeros_out(engine: Engine) -> float:
    return timed(lambda: engine.docker("run", "--rm", IMAGE, "head", "-c", str(BYTES), "/dev/zero"))


def zeros_in(engine: Engine) -> float:
    def feed() -> None:
        source = subprocess.Popen(["head", "-c", str(BYTES), "/dev/zero"], stdout=subprocess.PIPE)
        engine.docker("run", "-i", "--rm", IMAGE, "wc", "-c", stdin=source.stdout)
        source.wait()

    return timed(feed)


# A directory of 10,000 files of a few bytes, and one file of 500 MB.
_FILES = (
    "mkdir /many; for i in $(seq 100); do mkdir /many/$i; for j in $(seq 100); do echo $i.$j > /many/$i/$j; done; done; "
    "yes | head -c 500000000 > /big; touch /ready; sleep 100000"
)


def with_files(*words: str) -> Callable[[Engine], float]:
    """A command that reads files of a running container, and writes them to /dev/null, so that the client has little
    work."""

    def measured(engine: Engine) -> float:
        if not json.loads(engine.get('/containers/json?filters={"name":{"files":true}}')):
            engine.docker("run", "-d", "--name", "files", IMAGE, "sh", "-c", _FILES)
            engine.docker("exec", "files", "sh", "-c", "until [ -e /ready ]; do sleep 0.1; done")
            os.sync()
        with open(os.devnull, "wb") as nothing:
            return timed(lambda: engine.docker(*words, stdout=nothing))

    return measured


def by_both_clients(*words: str) -> Callable[[Engine], float]:
    """The time of a command of orlop, divided by the time of the same command of docker, both with the same engine."""

    def measured(engine: Engine) -> float:
        theirs, ours = [], []
        for _ in range(15):
            theirs.append(timed(lambda: engine.docker(*words)))
            ours.append(timed(lambda: engine.own(*words)))
        return sorted(ours)[7] / sorted(theirs)[7]

    return with_fifty(measured)


def boot(engine: Engine) -> float:
    engine.stop()
    return engine.start()


ALL = (
    Measure("boot", "start of orlopd to its first answer, no containers", 0.34, boot, 3),
    Measure("memory", "memory of an idle engine (PSS)", 60, memory_idle, 1, "MB"),
    Measure("run", "docker run --rm busybox true, bridge network", 0.33, run_bridge, 9),
    Measure("run-none", "docker run --rm --network none busybox true", 0.4, run_none, 9),
    Measure("exec", "docker exec c true", 0.85, exec_true, 9),
    Measure("start50", "docker run -d of 50 containers, 8 at a time", 0.4, start_fifty, 3),
    Measure("rm50", "docker rm -f of 50 containers, 8 at a time", 0.4, remove_fifty, 3),
    Measure("ping", "GET /_ping, 8 connections", 0.85, ping, 5, "us"),
    Measure("list", "GET /containers/json, 50 containers", 0.33, with_fifty(list_fifty), 5, "us"),
    Measure("inspect", "GET /containers/{id}/json", 1.0, with_fifty(inspect), 5, "us"),
    Measure("ps", "docker ps with 50 containers, client included", 0.9, with_fifty(ps_fifty), 9),
    Measure("stats50", "docker stats --no-stream of 50 containers", 0.3, with_fifty(stats_fifty), 3),
    Measure("stats50-own", "the same, by each engine's own client", 0.2, with_fifty(stats_fifty_own), 3),
    Measure("client-ps", "orlop ps / docker ps, 50 containers", 1.15, by_both_clients("ps"), 3, "x", ("orlop",)),
    Measure("client-version", "orlop version / docker version", 1.15, by_both_clients("version"), 3, "x", ("orlop",)),
    Measure(
        "client-inspect", "orlop inspect / docker inspect", 1.15, by_both_clients("inspect", "stay-0"), 3, "x", ("orlop",)
    ),
    Measure("client-logs", "orlop logs / docker logs", 1.15, by_both_clients("logs", "stay-0"), 3, "x", ("orlop",)),
    Measure("client-exec", "orlop exec / docker exec", 1.1, by_both_clients("exec", "stay-0", "true"), 3, "x", ("orlop",)),
    Measure(
        "client-run",
        "orlop run --rm / docker run --rm",
        1.3,
        by_both_clients("run", "--rm", IMAGE, "true"),
        3,
        "x",
        ("orlop",),
    ),
    Measure("memory50", "memory per container (PSS)", 2.5, with_fifty(memory_per_container), 1, "MB"),
    Measure("json-write", "a container that writes 1 M lines to json-file", 0.3, write_lines, 3),
    Measure("syslog-write", "a container that writes 1 M lines to syslog", 0.3, write_to_syslog, 3),
    Measure("json-read", "docker logs of 1 M lines", 0.3, read_lines, 3),
    Measure("zeros-out", "docker run of a container that writes 200 MB", 0.5, zeros_out, 3),
    Measure("zeros-in", "docker run -i of a container that reads 200 MB", 0.8, zeros_in, 3),
    Measure("cp-big", "docker cp of one 500 MB file to stdout", 0.7, with_files("cp", "files:/big", "-"), 5),
    Measure("cp-small", "docker cp of 10,000 small files to stdout", 0.7, with_files("cp", "files:/many", "-"), 5),
    Measure("export", "docker export of all these files", 0.7, with_files("export", "files"), 5),
    Measure("load", "docker load of an image: 187 MB, 8,600 files", 0.4, images.load, 5),
    Measure("save", "docker save of the same image", 0.5, images.save, 5),
    Measure("pull", "docker pull of the same image", 0.35, images.pull, 5),
    Measure(
        "unpack", "for comparison: gunzip and sha256 of the layers", math.inf, images.unpack_alone, 3, engines=("orlop",)
    ),
    Measure("push", "docker push of the same image, empty registry", 0.5, images.push, 3),
    Measure("push-again", "the same again: the registry has the image", 0.9, images.push_again, 9),
    Measure("push-again-api", "the same, without docker's client", 0.7, images.push_request, 5),
    Measure("push-large", "docker push of a layer of 256 MB, empty registry", 0.5, images.push_large, 3),
    Measure("push-second", "the same image again, to a second empty registry", 0.3, images.push_second, 3),
    Measure("pull10", "10 docker pulls at once, of images that share layers", 0.4, images.pull_ten, 3),
    Measure("images500", "docker images with 500 images, client included", 0.9, images.with_many(images.list_command), 5),
    Measure("images500-api", "GET /images/json, 500 images", 0.3, images.with_many(images.list_request), 5),
    Measure("rmi1000", "docker rmi of 1,000 tags of one image", 0.3, images.remove_tags, 3),
    Measure("build-cached", "docker build, 10 steps, all cached", 0.85, builds.cached_steps, 5),
    Measure(
        "build-cached-own", "the same, processor time of the engine", 0.9, builds.without_client(builds.cached_steps), 3
    ),
    Measure("build-cold", "docker build, 10 x RUN true", 0.4, builds.cold_steps, 3),
    Measure("build-context", "docker build with a file of 500 MB", 0.9, builds.large_context, 3),
    Measure("build-files", "docker build with 20,000 files", 1.0, builds.many_files, 3),
    Measure("build-unchanged", "the same build again, no file has changed", 0.85, builds.many_files_again, 3),
    Measure(
        "build-unchanged-own",
        "the same, processor time of the engine",
        0.5,
        builds.without_client(builds.many_files_again),
        3,
    ),
    Measure("build-copy", "docker build, COPY of 20,000 files", 0.7, builds.copy_many, 3),
    Measure("build-export", "docker build, RUN that writes 500 MB", 0.9, builds.export_large, 3),
    Measure("build-parallel", "docker build: 4 parallel stages / 4 serial steps", 0.63, builds.parallel_stages, 3, "x"),
    Measure("classic-cached", "classic build, 10 steps, all cached", 1.3, builds.classic(builds.cached_steps), 5),
    Measure("classic-request", "the same, without docker's client", 2.3, builds.classic_request, 5),
    Measure("classic-cold", "classic build, 10 x RUN true", 0.5, builds.classic(builds.cold_steps), 3),
    Measure("classic-context", "classic build with a file of 500 MB", 0.5, builds.classic(builds.large_context), 3),
    Measure("classic-files", "classic build with 20,000 files", 0.5, builds.classic(builds.many_files), 3),
    Measure(
        "builder-small", "highest RSS of the builder, 10 x RUN true", 45, builds.builder_peak_of_steps, 1, "MB", ("orlop",)
    ),
    # 45 MB, and 1 kB for each file
    Measure("builder-memory", "highest RSS of the builder, 20,000 files", 65, builds.builder_peak, 1, "MB", ("orlop",)),
    Measure(
        "builder-daemon", "memory growth of the daemon in its first builds", 5, builds.daemon_growth, 1, "MB", ("orlop",)
    ),
    *(
        Measure(f"erofs-{key}", label, bound, run, rounds, engines=("orlop", "erofs"))
        for key, label, bound, run, rounds in (
            ("pull", "erofs / overlay2: docker pull, 14,700 files", 0.9, storage.pull, 5),
            ("rmi", "the same: docker rmi, until the disk is free", 0.2, storage.remove, 5),
            ("run", "the same: docker run --rm true", 1.1, storage.start, 9),
        )
    ),
    *(
        Measure(f"{name}-2gb-{key}", f"{name}, layer of 2 GB: {label}", bound, run, 1, "MB", (engine,))
        for name, engine in (("overlay2", "orlop"), ("erofs", "erofs"))
        for key, label, bound, run in (
            ("daemon", "memory growth of the daemon", 20, large.growth),
            ("worker", "highest RSS of an unpack worker", 64, large.worker),
        )
    ),
)
