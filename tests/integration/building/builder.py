"""A builder process for tests: on a client's connection, each line is a JSON object with a call of `contracts.Backend`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

from orlop_build_dockerfile.contracts import Backend, Base, CacheRecord, Client, ImagePart, Pruned, Settings, Step
from orlop_build_dockerfile.daemon.process import main
from orlop_build_dockerfile.processes import Streams
from orlop_monitor.mounting import mount_all
from orlop_sdk import OrlopError, linux
from orlop_sdk.filecopies import Attributes, Batch, Helper


class TestBuilder:
    """Implements `contracts.Builder`."""

    __test__ = False

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings, self.backend = settings, backend

    async def usage(self) -> list[CacheRecord]:
        return [CacheRecord(id="abc", size=123, created=1e9, uses=2, description="a record", in_use=False)]

    async def prune(self, filters: Any, *, everything: bool, reserved: int, maximum: int, free: int) -> Pruned:
        return Pruned((json.dumps([filters, everything, reserved, maximum, free]),), 5)

    async def cancel(self, build: str) -> None:
        raise OrlopError(f"cancelled {build}")

    async def serve(self, client: Client, connection: trio.SocketStream) -> None:
        data = bytearray(client.early)
        async with trio.open_nursery() as nursery:
            while True:
                while b"\n" in data:
                    line, _, rest = data.partition(b"\n")
                    data = bytearray(rest)
                    nursery.start_soon(self._answer, client, json.loads(line), connection)
                more = await connection.receive_some(65536)
                if not more:
                    break
                data += more
            nursery.cancel_scope.cancel()

    async def _answer(self, client: Client, asked: dict[str, Any], connection: trio.SocketStream) -> None:
        try:
            answer = await self._done(client, asked)
        except* OrlopError as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            answer = {"error": str(error), "kind": type(error).__name__}
        await connection.send_all(json.dumps({"id": asked.get("id"), **answer}).encode() + b"\n")

    async def _done(self, client: Client, asked: dict[str, Any]) -> dict[str, Any]:
        name, given = asked["call"], asked.get("args", {})
        backend = self.backend
        match name:
            case "hello":
                settings = msgspec.to_builtins(self.settings)
                return {"kind": client.kind, "headers": dict(client.headers), "settings": settings}
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "base":
                async with backend.base(given["name"], "", pull=given.get("pull", False), credentials=None) as items:
                    found = [item async for item in items]
                base = found[-1]
                assert isinstance(base, Base)
                return {"items": len(found) - 1, "result": _shown(base)}
            case "resolve":
                pull = given.get("pull", False)
                return {"result": _shown(await backend.resolve(given["name"], "", pull=pull, credentials=None))}
            case "write":
                return {"result": await self._write(given["key"], given["path"], given["text"])}
            case "read":
                return {"result": await self._read(given["key"], given["path"])}
            case "run":
                return await self._run(msgspec.convert(given, Step))
            case "serve":
                return await self._serve(given.pop("name"), msgspec.convert(given, Step))
            case "unpack":
                with open(given["archive"], "rb") as archive:
                    directory = os.open(given["directory"], os.O_RDONLY | os.O_DIRECTORY)
                    await backend.unpack(archive.fileno(), directory)
                    os.close(directory)
                return {}
            case "copy_files":
                return {"result": await self._copy_files(**given)}
            case "create_image":
                part = ImagePart(given["config"].encode(), given["snapshots"])
                return {"result": (await backend.create_images([part], given["names"]))[0]}
            case "mounts":
                return {"result": msgspec.to_builtins(await backend.mounts(given["key"], readonly=True))}
        result = await getattr(backend, name)(**given)
        return {"result": msgspec.to_builtins(result)}

    async def _copy_files(self, source: str, target: str, names: list[str]) -> list[str]:
        """The names of the files that the daemon's helper has not copied."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        directories = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]

        def own() -> list[str]:
            helper: Helper[str] = Helper(lambda: ours)
            given = helper.give(*directories, Batch([(name, 0o600) for name in names], Attributes()), "")
            taken = helper.take(wait=True)
            helper.close()
            return taken[1] if given and taken else names

        try:
            with theirs:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self.backend.copy_files, theirs.fileno())
                    return await trio.to_thread.run_sync(own)
        finally:
            for fd in directories:
                os.close(fd)

    @contextlib.asynccontextmanager
    async def _mounted(self, key: str, *, readonly: bool) -> AsyncIterator[str]:
        place = os.path.join(self.settings.runtime, f"mnt-{key}")
        os.makedirs(place, exist_ok=True)
        mounts = await self.backend.mounts(key, readonly=readonly)
        mount_all(place, mounts)
        try:
            yield place
        finally:
            for mount in reversed(mounts):
                linux.umount(mount.mountpoint or os.path.join(place, mount.target.strip("/")).rstrip("/"))
            os.rmdir(place)

    async def _write(self, key: str, path: str, text: str) -> None:
        async with self._mounted(key, readonly=False) as root:
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            with open(root + path, "w") as file:
                file.write(text)

    async def _read(self, key: str, path: str) -> str:
        async with self._mounted(key, readonly=True) as root:
            with open(root + path) as file:
                return file.read()

    async def _run(self, step: Step) -> dict[str, Any]:
        outputs = {}

        async def collect(name: str, fd: int) -> None:
            outputs[name] = b""
            async with trio.lowlevel.FdStream(fd) as stream:
                async for piece in stream:
                    outputs[name] += piece

        out, err = os.pipe(), os.pipe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect, "out", out[0])
            nursery.start_soon(collect, "err", err[0])
            try:
                code = await self.backend.run(step, out[1], err[1])
            finally:
                os.close(out[1])
                os.close(err[1])
        return {"code": code, "out": outputs["out"].decode(), "err": outputs["err"].decode()}

    async def _serve(self, name: str, step: Step) -> dict[str, Any]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            return {"code": await self.backend.serve(name, step, Streams(), theirs.fileno())}


def _shown(base: Base) -> dict[str, Any]:
    return {"name": base.name, "digest": base.digest, "config": base.config.decode(), "snapshot": base.snapshot}


@contextlib.asynccontextmanager
async def open_builder(settings: Settings, backend: Backend) -> AsyncIterator[TestBuilder]:
    yield TestBuilder(settings, backend)


if __name__ == "__main__":
    main(open_builder)
