"""Builds that fail, and hostile builds. Each ends with an error in bounded time and memory, and leaves nothing. The daemon
still answers."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.crash.builds import builder
from tests.integration.engine import Engine, Result, UnixConnection, patience, until
from tests.integration.test_build_clients import nothing_left, processes

from orlop_sdk.testing.busy import tolerated

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

DAEMON_GROWS = 5 << 10
"""KiB."""
BUILDER = 45 << 10
"""KiB that a working builder may use, plus 1 KiB for each file of the context."""


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine({"shutdown-timeout": 3})
    made.start()
    made.load()
    build(made, "FROM busybox\nRUN true\n")
    made.docker("pull", "127.0.0.1:1/none")  # the modules of a first request to a registry stay in the daemon's memory
    yield made
    assert made.close() == []


Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, data: bytes = b"", **fields: object) -> Entry:
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


def context(dockerfile: str, *entries: Entry) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for made, data in (entry("Dockerfile", dockerfile.encode()), *entries):
            archive.addfile(made, io.BytesIO(data) if data else None)
    return out.getvalue()


def post(engine: Engine, body: bytes, query: str = "") -> str:
    """Send `POST /build`. Returns the whole answer."""
    connection = UnixConnection(engine.socket)
    connection.timeout = patience(120)
    try:
        connection.request("POST", f"/build?{query}", body, {"Content-Type": "application/x-tar"})
        if connection.sock is not None:
            connection.sock.settimeout(patience(120))
        return connection.getresponse().read().decode(errors="replace")
    finally:
        connection.close()


def build(engine: Engine, dockerfile: str, *argv: str) -> Result:
    """Build with buildx, without a context."""
    return engine.docker("buildx", "build", "--progress=plain", *argv, "-", stdin=dockerfile, seconds=120)


def memory(pid: int) -> int:
    """Memory of a process in KiB, 0 if it is ending. A shared page, such as the interpreter's, is divided among its
    processes (PSS)."""
    found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


class Watched:
    """Pings the daemon for the duration of a block, and measures memory."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._over = engine, threading.Event()
        self.waits: list[float] = []
        self.builder = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watched:
        """Use a new builder, because the previous builder may keep memory of an earlier test."""
        assert self._engine.process is not None
        if pid := builder(self._engine):
            os.kill(pid, signal.SIGKILL)
            until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the builder before")
        self._before = memory(self._engine.process.pid)
        self._thread.start()
        return self

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            assert self._engine.api("GET", "/_ping")[0] == 200
            self.waits.append(time.monotonic() - began)
            pid = builder(self._engine)
            with suppress(OSError):
                self.builder = max(self.builder, memory(pid) if pid else 0)
            if self._over.wait(0.02):
                return

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self, files: int = 0) -> None:
        """Check that pings took less than 100 ms, except for delays of the machine, and that memory stayed below its
        limits."""
        assert self._engine.process is not None
        waits = sorted(self.waits)
        assert waits[len(waits) * 9 // 10] < patience(max(0.1, tolerated())), waits[-5:]
        assert self._engine.blocked() == []
        assert self.builder < BUILDER + files, self.builder
        daemon = self._engine.process.pid
        until(lambda: memory(daemon) - self._before < DAEMON_GROWS, f"memory as before ({self._before} KiB)", 40)


@contextmanager
def watched(engine: Engine, files: int = 0) -> Iterator[Watched]:
    with Watched(engine) as found:
        yield found
    found.check(files)
    nothing_left(engine)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_thousand_children_of_a_build_step_are_killed_when_its_command_exits(engine: Engine) -> None:
    """The step's command does not wait for all its children."""
    script = "for i in $(seq 1000); do sleep 51337 & done; echo forked; exit 3"
    with watched(engine):
        result = build(engine, f"FROM busybox\nRUN {script}\n", "--no-cache")
        assert result.code != 0 and "exit code: 3" in result.err, result.err[-500:]
        assert processes(engine, "51337") == []


def test_build_output_of_two_hundred_megabytes_is_clipped(engine: Engine) -> None:
    with watched(engine):
        result = build(engine, "FROM busybox\nRUN yes 0123456789abcdef | head -c 200000000; exit 4\n", "--no-cache")
        assert "exit code: 4" in result.err, result.err[-500:]
        assert len(result.err) < 20 << 20
        assert "log limit" in result.err or "clipped" in result.err, result.err[-3000:]


def test_output_line_of_a_hundred_megabytes_does_not_fail_the_build(engine: Engine) -> None:
    with watched(engine):
        assert "Successfully built" in post(engine, context("FROM busybox\nRUN head -c 100000000 /dev/zero\n"), "nocache=1")


# --- contexts ---------------------------------------------------------------------------------------------------------

HOSTILE: dict[str, tuple[Entry, ...]] = {
    "above": (entry("../escaped", b"x"),),
    "absolute": (entry("/tmp/orlop-escaped", b"x"),),
    "far above": (entry("a/../../../../tmp/orlop-escaped", b"x"),),
    "through a link": (entry("l", type=tarfile.SYMTYPE, linkname="/tmp"), entry("l/orlop-escaped", b"x")),
    "a hard link outside": (entry("h", type=tarfile.LNKTYPE, linkname="/etc/passwd"),),
    "a hard link above": (entry("h", type=tarfile.LNKTYPE, linkname="../../../../etc/passwd"),),
    "a device": (entry("d", type=tarfile.BLKTYPE, devmajor=8, devminor=0, mode=0o666),),
    "a pipe": (entry("p", type=tarfile.FIFOTYPE),),
    "twice": (entry("t", b"one"), entry("t/x", b"two"), entry("t", b"three")),
    "a directory that is a file": (entry("f", b"x"), entry("f/g/h", b"y")),
    "a long name": (entry("n" * 5000, b"x"),),
    "deep": (entry("/".join(["d"] * 3000), b"x"),),
    "the Dockerfile is a link": (entry("Dockerfile", type=tarfile.SYMTYPE, linkname="/etc/passwd"),),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_contexts_cannot_read_or_write_files_of_the_host(engine: Engine, name: str) -> None:
    """A hostile context is refused or stays contained; no file of the host is read or written."""
    with watched(engine):
        body = context("FROM busybox\nCOPY . /c\nRUN find /c | wc -l; cat /c/h 2>/dev/null || true\n", *HOSTILE[name])
        said = post(engine, body, "nocache=1")
    assert "Successfully built" in said or "errorDetail" in said or '"message"' in said, said[-500:]
    assert "root:x:0:0" not in said
    assert not os.path.exists("/tmp/orlop-escaped")
    assert "Traceback" not in said


def test_build_contexts_with_wrong_file_sizes_are_refused(engine: Engine) -> None:
    """One body ends in the middle of a file. One header has a size that is larger than any disk."""
    large = tarfile.TarInfo("large")
    large.size = 1 << 60
    body = context("FROM busybox\nCOPY large /large\n")[:1024] + large.tobuf(tarfile.GNU_FORMAT) + b"x" * 10_000
    with watched(engine):
        for data in (body, context("FROM busybox\nCOPY f /f\n", entry("f", b"x" * 100_000))[:50_000]):
            said = post(engine, data)
            assert "errorDetail" in said or '"message"' in said, said


def test_build_context_with_many_files_takes_bounded_memory(fresh: Callable[..., Engine]) -> None:
    """The memory of the builder grows by less than 1 KiB for each file. The test starts its own engine, because Python does
    not return this memory to the system."""
    engine, count = fresh(), 20_000
    build(engine, "FROM busybox\nRUN true\n")
    files = [entry(f"{number % 100}/{number}", b"x") for number in range(count)]
    with watched(engine, count):
        said = post(engine, context("FROM busybox\nCOPY . /c\nRUN find /c -type f | wc -l\n", *files), "nocache=1")
    assert "20001" in said and "Successfully built" in said, said[-500:]


def test_client_that_sends_an_incomplete_context_does_not_delay_other_clients(engine: Engine) -> None:
    """The client disconnects in the end. A client that sends nothing is tested, too."""
    body = context("FROM busybox\nCOPY f /f\n", entry("f", b"x" * 300_000))
    with watched(engine):
        for sent in (b"", body[:100], body[:200_000]):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(engine.socket)
                sock.sendall(f"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n".encode() + sent)
                time.sleep(0.2)


# --- Dockerfiles ------------------------------------------------------------------------------------------------------

LAUGHS = "FROM busybox\nARG A0=lollollollol\n" + "".join(
    f"ARG A{n}={'$A' + str(n - 1) + ' '}\n".replace(f"$A{n - 1} ", f"$A{n - 1}" * 10) for n in range(1, 12)
)
DOCKERFILES: dict[str, str] = {
    "ten megabytes": "FROM busybox\n" + "# comment\n" * 1_000_000,
    "ten thousand stages": "".join(f"FROM busybox AS s{n}\nRUN echo {n}\n" for n in range(10_000))
    + "FROM missing-stage-x:y\n",
    "billion laughs": LAUGHS + "RUN echo $A11\n",
    "a line of eight megabytes": "FROM busybox\nRUN echo " + "x" * (8 << 20) + "\n",
    "heredocs": "FROM busybox\nRUN " + " ".join(f"<<E{n}" for n in range(20_000)) + "\n",
    "larger than the limit": "FROM busybox\n" + "#" * (17 << 20),
    "instructions": "FROM busybox\n" + "ENV a=b\n" * 60_000,
}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_builds_of_hostile_dockerfiles_end_in_bounded_time(engine: Engine, name: str) -> None:
    """Any answer is accepted, as long as it comes in time."""
    began = time.monotonic()
    watching = Watched(engine)
    with watching:
        post(engine, context(DOCKERFILES[name]), "target=none-such")
    assert time.monotonic() - began < patience(100)
    waits = sorted(watching.waits)
    assert waits[len(waits) * 9 // 10] < patience(max(0.1, tolerated())), waits[-5:]
    assert watching.builder < 600 << 10, f"{watching.builder} KiB"
    nothing_left(engine)


# --- registries and disks ---------------------------------------------------------------------------------------------


@contextmanager
def hung_registry() -> Iterator[str]:
    """A registry that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_build_that_waits_for_a_hung_registry_ends_when_its_client_is_interrupted(engine: Engine) -> None:
    """The registry accepts connections and never answers."""
    with hung_registry() as host, watched(engine):
        child = subprocess.Popen(
            ["docker", "buildx", "build", "--progress=plain", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=engine.env,
        )
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(f"FROM {host}/image:1\n".encode())
        child.stdin.close()
        while b"load metadata" not in (line := child.stdout.readline()):
            assert line, "the build has ended"
        child.send_signal(signal.SIGINT)
        child.stdout.read()
        assert child.wait(patience(30)) != 0
        child.stdout.close()
        until(lambda: build(engine, "FROM busybox\nRUN echo others\n").code == 0, "others build")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Engine, Callable[[], None]]]:
    """An engine on a disk of its own, and a function that fills this disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(disk)], check=True)
    try:
        engine = Engine({"shutdown-timeout": 3}, data_root=disk / "data")
        engine.start()
        engine.load()

        def fill() -> None:
            """Leave 4 MiB."""
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - (4 << 20)
            with (disk / "filler").open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free)

        yield engine, fill
        (disk / "filler").unlink(missing_ok=True)
        assert engine.close() == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_build_on_a_full_disk_fails_and_leaves_nothing(full: tuple[Engine, Callable[[], None]]) -> None:
    """The disk fills in a step, in COPY, and in the upload; afterwards builds work again."""
    engine, fill = full
    assert "Successfully built" in post(engine, context("FROM busybox\nRUN echo before\n"))
    fill()
    big = entry("big", os.urandom(1 << 20) * 8)
    for body in (
        context("FROM busybox\nRUN dd if=/dev/zero of=/big bs=1M count=32 && sync\n"),
        context("FROM busybox\nCOPY big /big\n", big),
    ):
        said = post(engine, body, "nocache=1&t=full:1")
        assert "errorDetail" in said or '"message"' in said, said[-300:]
        assert "no space left" in said.lower() or "non-zero code" in said, said[-300:]
    assert engine.api("GET", "/images/full:1/json")[0] == 404
    engine.until_sound()
    (engine.data_root.parent / "filler").unlink()
    assert "Successfully built" in post(engine, context("FROM busybox\nCOPY big /big\n", big), "t=full:1")
    engine.ok("rmi", "full:1")
    engine.ok("builder", "prune", "-af")
    nothing_left(engine)


@pytest.mark.parametrize("buildkit", ["1", "0"])
def test_shutdown_of_the_daemon_ends_builds_with_a_message(
    fresh: Callable[..., Engine], tmp_path: Path, buildkit: str
) -> None:
    engine = fresh()
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN sleep 1000; true\n")
    with (tmp_path / "said").open("wb") as said:
        env = {**engine.env, "DOCKER_HOST": f"unix://{engine.socket}", "DOCKER_BUILDKIT": buildkit}
        client = subprocess.Popen(["docker", "build", "."], cwd=tmp_path, stdout=said, stderr=said, env=env)
    try:
        until(lambda: processes(engine, "sleep 1000"), "the step runs")
        engine.stop()
        assert client.wait(patience(30)) == 1
    finally:
        client.kill()
        client.wait()
    assert (tmp_path / "said").read_text().rstrip().endswith("the daemon is shutting down")
