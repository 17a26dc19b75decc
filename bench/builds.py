"""Measures of builds, with the docker client and its buildx plugin (the default builder of each engine), and with the
classic endpoint. A measure is the time of the whole command, unless `without_client` is used. The directories of contexts
are made once for all engines.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import statistics
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache

from .engines import Connection, Engine, timed
from .large import settled, status

__all__ = [
    "builder_peak",
    "builder_peak_of_steps",
    "cached_steps",
    "classic",
    "classic_request",
    "cold_steps",
    "copy_many",
    "daemon_growth",
    "export_large",
    "large_context",
    "many_files",
    "many_files_again",
    "parallel_stages",
    "without_client",
]

IMAGE = "bench/busybox:latest"
_NAME = "bench/built"
_count = itertools.count()
_MANY = 20_000
_REPEATED = 5
_TICKS = os.sysconf("SC_CLK_TCK")
_own_time = ContextVar("_own_time", default=False)


def build(engine: Engine, directory: str, *words: str, buildkit: bool = True) -> float:
    os.environ["DOCKER_BUILDKIT"] = "1" if buildkit else "0"

    def command() -> None:
        engine.docker("build", "-q", "-t", _NAME, *words, directory)

    try:
        if not _own_time.get():
            return timed(command)
        before = _processor_time(engine)
        for _ in range(_REPEATED):
            command()
        return (_processor_time(engine) - before) / _REPEATED
    finally:
        del os.environ["DOCKER_BUILDKIT"]


def without_client(measure: Callable[[Engine], float]) -> Callable[[Engine], float]:
    """Measure the processor time of the engine's processes instead of the time of the command. Use this only for builds that
    may be repeated. The reason: in a build in which nothing has changed, the client takes most of the time (decision
    0034)."""

    def measured(engine: Engine) -> float:
        token = _own_time.set(True)
        try:
            return measure(engine)
        finally:
            _own_time.reset(token)

    return measured


def _processor_time(engine: Engine) -> float:
    """Processor seconds of all processes of the engine, and of their children that have ended."""
    ticks = 0
    for pid in engine.processes():
        with suppress(OSError), open(f"/proc/{pid}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:15]))
    return ticks / _TICKS


def _context(dockerfile: str) -> str:
    """A new directory with a Dockerfile. It is removed together with the benchmark's temporary files."""
    directory = tempfile.mkdtemp(prefix="orlop-bench-build-")
    with open(f"{directory}/Dockerfile", "w") as file:
        file.write(dockerfile)
    return directory


def _fresh() -> str:
    """A build argument with a new value, so that the steps of the build are not cached."""
    return f"--build-arg=FRESH={os.getpid()}-{next(_count)}"


def _steps(count: int) -> str:
    lines = "".join(f"RUN true {number}\n" for number in range(count))
    return f"FROM {IMAGE}\nARG FRESH\n{lines}"


def cached_steps(engine: Engine, *, buildkit: bool = True) -> float:
    directory = _context(_steps(10))
    try:
        build(engine, directory, "--build-arg=FRESH=cached", buildkit=buildkit)
        return build(engine, directory, "--build-arg=FRESH=cached", buildkit=buildkit)
    finally:
        shutil.rmtree(directory)


def classic_request(engine: Engine) -> float:
    """A build of ten cached steps by `POST /build`, without the docker client."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        data = _steps(10).encode()
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))

    def request() -> None:
        connection = Connection(engine.socket)
        connection.request("POST", f"/build?q=1&t={_NAME}", body.getvalue(), {"Content-Type": "application/x-tar"})
        answer = connection.getresponse().read()
        connection.close()
        assert b"sha256:" in answer, answer

    request()
    return statistics.median(timed(request) for _ in range(9))


def cold_steps(engine: Engine, *, buildkit: bool = True) -> float:
    directory = _context(_steps(10))
    try:
        return build(engine, directory, _fresh(), buildkit=buildkit)
    finally:
        shutil.rmtree(directory)


def classic(measure: Callable[..., float]) -> Callable[[Engine], float]:
    """The same measure with `POST /build`."""
    return lambda engine: measure(engine, buildkit=False)


@cache
def _large_file() -> str:
    directory = _context("FROM scratch\nARG FRESH\nCOPY big /\n")
    with open(f"{directory}/big", "wb") as file:
        file.writelines(os.urandom(1_000_000) for _ in range(500))
    return directory


def _touch_large() -> str:
    """Change the file, so that it is sent again."""
    directory = _large_file()
    with open(f"{directory}/big", "r+b") as file:
        file.write(os.urandom(64))
    return directory


def large_context(engine: Engine, *, buildkit: bool = True) -> float:
    return build(engine, _touch_large(), buildkit=buildkit)


@cache
def _many_files() -> str:
    directory = _context("FROM scratch\nCOPY . /\n")
    for number in range(_MANY):
        where = f"{directory}/many/d{number // 100}"
        os.makedirs(where, exist_ok=True)
        with open(f"{where}/f{number}", "w") as file:
            file.write(f"{number}\n" * 40)
    return directory


def many_files(engine: Engine, *, buildkit: bool = True) -> float:
    """Uses a copy of the directory under another name, which is a new context for the engine: buildx identifies a context
    only by the last component of its path."""
    directory = tempfile.mkdtemp(prefix="orlop-bench-build-")
    context = f"{directory}/context-{next(_count)}"
    try:
        shutil.copytree(_many_files(), context)
        os.sync()
        return build(engine, context, buildkit=buildkit)
    finally:
        shutil.rmtree(directory)


def many_files_again(engine: Engine, *, buildkit: bool = True) -> float:
    directory = _many_files()
    build(engine, directory, buildkit=buildkit)
    return build(engine, directory, buildkit=buildkit)


def copy_many(engine: Engine, *, buildkit: bool = True) -> float:
    """The engine has the context already, but the copy into the image is not cached."""
    directory = _many_files()
    with open(f"{directory}/Dockerfile", "w") as file:
        file.write(f"FROM scratch\nCOPY many /to-{next(_count)}\n")
    return build(engine, directory, buildkit=buildkit)


_STAGES = """FROM {image} AS base
ARG FRESH
{stages}FROM scratch
{copies}"""
_WORK = "RUN echo $FRESH > /out; i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done"


def parallel_stages(engine: Engine) -> float:
    """The time of a build with four independent stages, compared with the time of the same stages one after another. Shows
    the effect of two processors."""
    stages = "".join(f"FROM base AS s{number}\nARG FRESH\n{_WORK}\n" for number in range(4))
    copies = "".join(f"COPY --from=s{number} /out /{number}\n" for number in range(4))
    apart = _context(_STAGES.format(image=IMAGE, stages=stages, copies=copies))
    row = _context(f"FROM {IMAGE}\nARG FRESH\n" + f"{_WORK}\n" * 4)
    try:
        return build(engine, apart, _fresh()) / build(engine, row, _fresh())
    finally:
        shutil.rmtree(apart)
        shutil.rmtree(row)


def export_large(engine: Engine, *, buildkit: bool = True) -> float:
    """A build with a step that writes 500 MB, including its image. busybox needs 3.3 s to write the bytes (decision
    0034)."""
    directory = _context(f"FROM {IMAGE}\nARG FRESH\nRUN echo $FRESH; head -c 500000000 /dev/urandom > /big\n")
    try:
        return build(engine, directory, _fresh(), buildkit=buildkit)
    finally:
        shutil.rmtree(directory)


def _started_again(engine: Engine) -> int:
    """Restart the engine, so that it has no builder process. Returns the engine's pid when the start is complete."""
    engine.stop()
    engine.start()
    assert engine.process is not None
    pid = engine.process.pid
    settled(pid)
    return pid


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().strip()


def builder_peak(engine: Engine) -> float:
    """The highest RSS of a new builder process that receives 20,000 files and copies them into an image."""
    _started_again(engine)
    many_files(engine)
    return _builder_peak(engine)


def builder_peak_of_steps(engine: Engine) -> float:
    """Like `builder_peak`, for a build of ten steps without a context."""
    _started_again(engine)
    cold_steps(engine)
    return _builder_peak(engine)


def _builder_peak(engine: Engine) -> float:
    names = {pid: _name(pid) for pid in engine.processes()}
    return max(status(pid, "VmHWM") for pid, name in names.items() if name == "orlop-builder")


def daemon_growth(engine: Engine) -> float:
    """The growth of the daemon's RSS during its first builds. The daemon must be new: if a daemon has built before, the next
    one loads a part of the builder at its start."""
    engine.docker("image", "rm", "-f", _NAME)
    engine.docker("image", "prune", "-f")
    engine.docker("builder", "prune", "-af")
    pid = _started_again(engine)
    before = status(pid, "VmRSS")
    cold_steps(engine)
    many_files(engine)
    return status(pid, "VmRSS") - before
