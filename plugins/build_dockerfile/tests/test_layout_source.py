"""Images in OCI layouts: which image of an index is used, and which content is refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from test_solver import Engine, engine, trio_test

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.testing import FakeBuild

__all__ = ["engine"]  # a fixture

STORE = "oci:store"


def put(engine: Engine, document: Any) -> dict[str, Any]:
    """Store a document. Returns its descriptor."""
    data = json.dumps(document).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    engine.session.contents.setdefault(STORE, {})[digest] = data
    return {"digest": digest, "size": len(data)}


def image(engine: Engine, name: str, layers: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    config = put(engine, {"name": name, "rootfs": {"diff_ids": ["sha256:" + "1" * 64]}})
    layer = {"digest": "sha256:" + "2" * 64, "size": 1, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}
    return put(engine, {"config": config, "layers": [layer] if layers is None else layers})


async def read(engine: Engine, root: dict[str, Any], platform: str) -> str:
    """Read a layout. Returns the name of the image, or the error."""
    async with engine.solver() as solver, solver.open(FakeBuild(engine.session)) as job:
        try:
            layout = await job.layout(f"store@{root['digest']}", platform)
        except BuildFailed as error:
            return error.message
        assert len(layout.layers) == 1
        return str(json.loads(layout.base.config)["name"])


@trio_test
async def test_image_with_the_best_matching_variant_in_an_index_is_used(engine: Engine) -> None:
    def entry(name: str) -> dict[str, Any]:
        os, architecture, *variant = name.split("/")
        platform = {"os": os, "architecture": architecture, "variant": "".join(variant)}
        return {**image(engine, name), "platform": platform}

    names = [
        "linux/arm/v5",
        "linux/arm/v7",
        "linux/arm/v6",
        "unknown/unknown",
        "linux/arm64",
        "linux/amd64/v2",
        "linux/amd64",
    ]
    root = put(engine, {"manifests": [put(engine, {"manifests": [entry(name) for name in names]})]})
    for wanted, found in {
        "linux/arm/v6": "linux/arm/v6",
        "linux/arm": "linux/arm/v7",
        "linux/arm64/v8": "linux/arm64",
        "linux/arm64/v9": "linux/arm64",
        "linux/amd64": "linux/amd64",
        "linux/amd64/v3": "linux/amd64/v2",
        "": "linux/amd64",
    }.items():
        assert await read(engine, root, wanted) == found
    assert "no match for platform linux/s390x" in await read(engine, root, "linux/s390x")


@trio_test
async def test_content_that_is_not_an_image_is_refused(engine: Engine) -> None:
    nested = put(engine, {"manifests": []})
    for _ in range(10):
        nested = put(engine, {"manifests": [nested]})
    unknown = {"digest": "sha256:" + "2" * 64, "size": 1, "mediaType": "application/octet-stream"}
    for root, message in (
        (nested, "is not the manifest of an image"),
        (put(engine, {"manifests": 1}), "cannot read manifest"),
        (image(engine, "a", layers=[]), "has 0 layers, but its configuration has 1"),
        (image(engine, "a", layers=[unknown]), "unknown media type"),
        (put(engine, {"config": {"digest": "sha256:0", "size": 1 << 40}}), "cannot read a manifest or configuration"),
    ):
        assert message in await read(engine, root, "linux/amd64")
