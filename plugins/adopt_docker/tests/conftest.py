"""Makes BoltDB files and Docker roots, without a dockerd."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orlop_adopt_docker import adoption
from orlop_engine.config import Config
from orlop_sdk import InvalidParameter, NotFound, discovery

PAGE = 4096
CONTAINER, OTHER = "c" * 64, "d" * 64
NETWORK = "e" * 64
Tree = Mapping[str, Any]


def checksum(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


class BoltWriter:
    """Writes a tree of dicts (buckets) and bytes (values). If a leaf has more than `split` elements, it is split, and gets a
    branch page above."""

    def __init__(self, split: int = 4, inline: int = 200) -> None:
        self._split, self._inline = split, inline
        self._pages: list[bytes] = []
        self._next = 2

    def file(self, tree: Tree, transaction: int = 7) -> bytes:
        root = self._bucket(tree)
        older = self._meta(0, root + 1000, transaction - 1)
        return b"".join([older, self._meta(1, root, transaction), *self._pages])

    def _meta(self, number: int, root: int, transaction: int) -> bytes:
        body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, root, 0, 1, self._next, transaction)
        page = struct.pack("<QHHI", number, 4, 0, 0) + body + struct.pack("<Q", checksum(body))
        return page.ljust(PAGE, b"\0")

    def _place(self, content: bytes, flags: int, count: int) -> int:
        number, size = self._next, -(-(16 + len(content)) // PAGE)
        self._next += size
        page = struct.pack("<QHHI", number, flags, count, size - 1) + content
        self._pages.append(page.ljust(size * PAGE, b"\0"))
        return number

    def _elements(self, tree: Tree) -> list[tuple[bytes, bytes, int]]:
        found = []
        for key, value in sorted(tree.items()):
            if isinstance(value, dict):
                leaf = self._leaf(self._elements(value))
                if len(leaf) + 16 < self._inline and not any(isinstance(each, dict) for each in value.values()):
                    inline = struct.pack("<QQ", 0, 0) + struct.pack("<QHHI", 0, 2, len(value), 0) + leaf
                    found.append((key.encode(), inline, 1))
                else:
                    found.append((key.encode(), struct.pack("<QQ", self._bucket(value), 0), 1))
            else:
                found.append((key.encode(), value, 0))
        return found

    @staticmethod
    def _leaf(elements: list[tuple[bytes, bytes, int]]) -> bytes:
        heads, data = b"", b""
        for index, (key, value, flags) in enumerate(elements):
            position = (len(elements) - index) * 16 + len(data)
            heads += struct.pack("<IIII", flags, position, len(key), len(value))
            data += key + value
        return heads + data

    def _bucket(self, tree: Tree) -> int:
        elements = self._elements(tree)
        if len(elements) <= self._split:
            return self._place(self._leaf(elements), 2, len(elements))
        parts = [elements[at : at + self._split] for at in range(0, len(elements), self._split)]
        children = [self._place(self._leaf(part), 2, len(part)) for part in parts]
        heads, data = b"", b""
        for index, (part, child) in enumerate(zip(parts, children, strict=True)):
            heads += struct.pack("<IIQ", (len(parts) - index) * 16 + len(data), len(part[0][0]), child)
            data += part[0][0]
        return self._place(heads + data, 1, len(parts))


@pytest.fixture
def write_bolt() -> Callable[..., bytes]:
    return lambda tree, **more: BoltWriter(**more).file(tree)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class DockerRoot:
    """A root with one image of two layers, a container, a volume and a network. A test changes attributes such as `config`
    and `host`, and then calls `write`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tars = [b"lower tar", b"upper tar"]
        self.config: dict[str, Any] = {
            "ID": CONTAINER,
            "Name": "/web",
            "Created": "2024-05-06T07:08:09.5Z",
            "Path": "sleep",
            "Args": ["9"],
            "Driver": "overlay2",
            "Config": {
                "Hostname": "cccccccccccc",
                "Image": "app:1",
                "Cmd": ["sleep", "9"],
                "Volumes": None,
                "Labels": {"a": "b"},
            },
            "State": {"ExitCode": 3, "StartedAt": "2024-05-06T07:09:00Z", "FinishedAt": "2024-05-06T07:10:00Z"},
            "HasBeenStartedBefore": True,
            "NetworkSettings": {"Networks": {"front": {"IPAMConfig": {"IPv4Address": "10.9.0.5"}, "Aliases": ["al"]}}},
            "MountPoints": {
                "/data": {
                    "Type": "volume",
                    "Name": "named",
                    "Driver": "local",
                    "Destination": "/data",
                    "RW": True,
                    "Relabel": "z",
                }
            },
        }
        self.host: dict[str, Any] = {
            "Binds": ["named:/data"],
            "NetworkMode": "front",
            "LogConfig": {"Type": "json-file", "Config": {}},
            "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
            "Runtime": "runc",
            "ShmSize": 67108864,
        }
        self.network: dict[str, Any] = {
            "id": NETWORK,
            "name": "front",
            "networkType": "bridge",
            "created": "2024-05-06T07:08:09Z",
            "ipamType": "default",
            "ipamV4Config": json.dumps([{"PreferredPool": "10.9.0.0/24", "Gateway": "", "SubPool": ""}]),
            "ipamV4Info": json.dumps([{"IPAMData": json.dumps({"Pool": "10.9.0.0/24", "Gateway": "10.9.0.1/24"})}]),
            "labels": {"n": "1"},
            "scope": "local",
        }
        self.volume: dict[str, Any] = {"Name": "named", "Driver": "local", "Labels": {"a": "b"}, "Options": None}
        self.more: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    @property
    def image(self) -> str:
        return digest(self.document)

    @property
    def document(self) -> bytes:
        rootfs = {"type": "layers", "diff_ids": [digest(tar) for tar in self.tars]}
        return json.dumps({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": rootfs}).encode()

    @property
    def chains(self) -> list[str]:
        lower, upper = (digest(tar) for tar in self.tars)
        return [lower, digest(f"{lower} {upper}".encode())]

    def _file(self, path: str, data: bytes | str) -> None:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data.encode() if isinstance(data, str) else data)

    def write(self) -> Path:
        """Write everything. Returns the root."""
        content = f"image/overlay2/imagedb/content/sha256/{self.image[7:]}"
        self._file(content, self.document)
        self._file("image/overlay2/repositories.json", json.dumps({"Repositories": {"app": {"app:1": self.image}}}))
        for number, (chain, tar) in enumerate(zip(self.chains, self.tars, strict=True)):
            at = f"image/overlay2/layerdb/sha256/{chain[7:]}"
            parent = {"parent": self.chains[number - 1]} if number else {}
            for name, text in {"cache-id": f"layer{number}", "diff": digest(tar), "size": "9", **parent}.items():
                self._file(f"{at}/{name}", text)
            segment = json.dumps({"type": 1, "name": "file", "size": len(tar), "payload": None, "position": 0})
            self._file(f"{at}/tar-split.json.gz", gzip.compress(segment.encode()))
            self._file(f"overlay2/layer{number}/diff/file", tar)
            (self.path / f"overlay2/layer{number}/work").mkdir(exist_ok=True)
        self._file("network/files/local-kv.db", BoltWriter().file({"libnetwork": self._networks()}))
        self._file("volumes/metadata.db", BoltWriter().file({"volumes": {"named": json.dumps(self.volume).encode()}}))
        self._file("volumes/named/_data/file", "in the volume")
        for id, (config, host) in {CONTAINER: (self.config, self.host), **self.more}.items():
            self._container(id, {"Image": self.image, **config}, host)
        return self.path

    def _networks(self) -> dict[str, bytes]:
        record = b"\0" * 8 + json.dumps(self.network).encode()
        return {
            f"docker/network/v1.0/network/{NETWORK}/": record,
            "docker/network/v1.0/endpoint_count/x/": b"\0" * 8 + b"{}",
        }

    def _container(self, id: str, config: dict[str, Any], host: dict[str, Any]) -> None:
        self._file(f"containers/{id}/config.v2.json", json.dumps(config))
        self._file(f"containers/{id}/hostconfig.json", json.dumps(host))
        self._file(f"containers/{id}/{id}-json.log", '{"log":"line\\n","stream":"stdout","time":"2024-05-06T07:09:00Z"}\n')
        mounts = f"image/overlay2/layerdb/mounts/{id}"
        for name, text in {"mount-id": f"rw{id[:4]}", "init-id": f"rw{id[:4]}-init", "parent": self.chains[-1]}.items():
            self._file(f"{mounts}/{name}", text)
        for name in (f"rw{id[:4]}", f"rw{id[:4]}-init"):
            (self.path / "overlay2" / name / "diff").mkdir(parents=True, exist_ok=True)
        self._file(f"overlay2/rw{id[:4]}/diff/written", "by the container")


@pytest.fixture
def docker_root(tmp_path: Path) -> DockerRoot:
    return DockerRoot(tmp_path / "docker")


class FakeDrivers:
    """The log drivers and runtimes of a daemon, without loading any."""

    def __init__(self, config: Config) -> None:
        self.config = config

    async def runtime(self, name: str, made_with: str = "") -> object:
        if name != "runc":
            raise NotFound(f"unknown or invalid runtime name: {name}")
        return object()

    async def log(self, name: str, made_with: str = "") -> Any:
        if name not in ("json-file", "local", "none"):
            raise InvalidParameter(f"logger: no log driver named '{name}' is registered")
        return SimpleNamespace(validate=lambda options: None)

    async def close(self) -> None:
        pass


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> type[FakeDrivers]:
    """Replaces the installed drivers by fakes, for the daemon and for an adoption."""
    known = {"volume": ["local"], "network": ["bridge", "host", "null"]}
    monkeypatch.setattr(discovery, "installed", lambda kind: known[kind])
    monkeypatch.setattr(adoption, "Drivers", FakeDrivers)
    return FakeDrivers


@pytest.fixture
def config(tmp_path: Path) -> Config:
    os.mkdir(tmp_path / "data", 0o710)
    return Config(data_root=str(tmp_path / "data"), exec_root=str(tmp_path / "run"), storage_driver="overlay2")
