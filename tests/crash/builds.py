"""Builds by BuildKit's protocol and by `POST /build`, and removals of their cache. The daemon or the builder process is
killed.

An interrupted build deliberately leaves parts of its result in the build cache. So the state after a crash is compared
without the cache. After that, the cache is pruned. If an object then remains that did not exist before the build, it belongs
to no record of the cache, and the point fails.
"""

from __future__ import annotations

import io
import socket
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.integration.engine import Engine, patience, until

from .operation import Operation, Refused, Step, all_of, ask, request

__all__ = ["OPERATIONS", "builder"]

_FILES: Mapping[str, str] = {
    "Dockerfile": """FROM busybox AS one
RUN --mount=type=cache,target=/cache echo kept >> /cache/kept; echo one > /one
FROM busybox
ADD archive.tar /unpacked/
COPY file tree /copied/
COPY --from=one /one /one
RUN --mount=type=bind,target=/context cat /context/file /one > /both
""",
    "file": "from the context\n",
    "tree/a/b": "deep\n",
}


def _context() -> dict[str, bytes]:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        _add(archive, "packed/file", b"of an archive\n")
    return {**{name: text.encode() for name, text in _FILES.items()}, "archive.tar": inner.getvalue()}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in _context().items():
            _add(archive, name, data)
    return made.getvalue()


def _classic(engine: Engine) -> None:
    said = ask(engine, "POST", "/build?t=built:one", _archive())
    if b"Successfully tagged built:one" not in said:
        raise Refused(f"build: {said[-300:]!r}")


def _directory(engine: Engine) -> Path:
    root = engine.home / "context"
    for name, data in _context().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def _client(engine: Engine, *argv: str) -> None:
    argv = ("docker", "buildx", "build", "--progress=plain", *argv, str(_directory(engine)))
    done = subprocess.run(
        argv, env=engine.env, capture_output=True, stdin=subprocess.DEVNULL, timeout=patience(60), check=False
    )
    if done.returncode:
        raise Refused(f"build: {done.stderr[-500:].decode(errors='replace')}")


def _buildkit(engine: Engine) -> None:
    _client(engine, "-t", "built:one")


def _to_directory(engine: Engine) -> None:
    _client(engine, "-o", f"type=local,dest={engine.home / 'result'}")


def _index(engine: Engine) -> None:
    """Images of two platforms with attestations, which are stored by one commit."""
    root = _directory(engine)
    (root / "Platforms").write_text("FROM scratch\nARG TARGETARCH\nCOPY file /of-$TARGETARCH\n")
    platforms = "--platform=linux/amd64,linux/s390x"
    _client(engine, "-t", "built:one", "-f", str(root / "Platforms"), platforms, "--provenance=true")


def _export_cache(engine: Engine) -> None:
    _client(engine, "-t", "built:one", "--cache-to", f"type=local,dest={engine.home / 'cache'},mode=max")
    _unbuild(engine)


def _import_cache(engine: Engine) -> None:
    _client(engine, "-t", "built:one", "--cache-from", f"type=local,src={engine.home / 'cache'}")


_prune = request("POST", "/build/prune?all=1")
_unbuild = all_of(request("DELETE", "/images/built:one", None, 404), _prune)


def _start_builder(engine: Engine) -> None:
    """Open a connection, so that the daemon starts the builder process."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience(60))
        connection.connect(engine.socket)
        connection.sendall(b"POST /grpc HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        answer = b""
        while b"\r\n\r\n\0" not in answer:  # HTTP/2 begins with the builder's settings
            data = connection.recv(4096)
            if not data:
                raise Refused(f"no builder: {answer!r}")
            answer += data
    until(lambda: builder(engine), "the builder process")


def builder(engine: Engine) -> int:
    """The pid of the builder process; 0 if there is none."""
    assert engine.process is not None
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(") ")[2].split()[1])
            if parent == engine.process.pid and b"orlop_build_dockerfile" in (path / "cmdline").read_bytes():
                return int(path.name)
        except OSError:
            continue
    return 0


def _of_builder(operation: Operation) -> Operation:
    """The same operation, with the builder process as the victim."""
    prepare: Step = all_of(operation.prepare, _start_builder)
    return replace(operation, name=f"builder-{operation.name}", prepare=prepare, victim="builder")


_BUILDS = (
    Operation("build", (_buildkit,), undo=_unbuild, caches=True),
    Operation("build-classic", (_classic,), undo=_unbuild, caches=True),
    Operation("build-local", (_to_directory,), undo=_unbuild, caches=True),
    Operation("build-index", (_index,), undo=_unbuild, caches=True),
    Operation("build-import", (_import_cache,), _export_cache, _unbuild, caches=True),
    Operation("build-prune", (_prune,), _classic, _unbuild, caches=True),
)
OPERATIONS = (
    *_BUILDS,
    *map(_of_builder, _BUILDS),
    Operation("worker-build", (_classic,), undo=_unbuild, victim="fork", caches=True),
    Operation("zygote-build", (_classic,), undo=_unbuild, victim="zygote", caches=True),
)
