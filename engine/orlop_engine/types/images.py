"""The configuration document of an image (OCI image-spec config.md, and Docker's additions).

Documents from registries may have unknown fields. The bytes of a document are kept in addition to the parsed form, because
an image's ID is the hash of these bytes.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

__all__ = [
    "History",
    "ImageConfig",
    "ImageDocument",
    "ImageHealthcheck",
    "RootFS",
]


class _Config(Struct, frozen=True, rename="pascal"):
    """Base of the structs of a configuration. It is frozen, because all users of an image share these values."""


class ImageHealthcheck(_Config, frozen=True, omit_defaults=True):
    """The `HEALTHCHECK` of an image. Durations are in ns."""

    test: list[str] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ImageConfig(_Config, frozen=True, omit_defaults=True):
    """An image's defaults for containers that are created from it. `None`: the image sets no value."""

    user: str = ""
    exposed_ports: dict[str, Any] | None = None
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: ImageHealthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    shell: list[str] | None = None


class RootFS(Struct, frozen=True):
    """`diff_ids`: digests of the uncompressed layers, lowest first."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(Struct, frozen=True, omit_defaults=True):
    """One build step. `empty_layer`: the step created no layer."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageDocument(Struct, frozen=True, omit_defaults=True):
    """The configuration document whose hash is the image's ID. Times are RFC 3339."""

    architecture: str = ""
    comment: str = ""
    config: ImageConfig | None = None
    created: str = ""
    docker_version: str = ""
    history: list[History] | None = None
    os: str = ""
    os_version: str = field(name="os.version", default="")
    rootfs: RootFS | None = None
    variant: str = ""
    author: str = ""
