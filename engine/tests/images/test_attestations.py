"""Attestations that are read from the blobs of an image's index, and attestations that are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from orlop_engine.images import attestations as module
from orlop_engine.images.attestations import attestations
from orlop_engine.images.content import ContentStore
from orlop_engine.images.names import Names
from orlop_engine.images.records import Image, ImageRecord
from orlop_engine.types.images import ImageDocument

PROVENANCE, PACKAGES = "https://slsa.dev/provenance/v0.2", "https://spdx.dev/Document"


@pytest.fixture
def content(tmp_path: Path) -> ContentStore:
    found = ContentStore(str(tmp_path / "content"))
    found.prepare()
    return found


def kept(content: ContentStore, *blobs: bytes) -> list[str]:
    return [trio.run(content.put, blob) for blob in blobs]


def part(digest: str, kind: str = PROVENANCE, **more: Any) -> dict[str, Any]:
    annotations = {"in-toto.io/predicate-type": kind}
    return {"mediaType": "application/vnd.in-toto+json", "digest": digest, "size": 1, "annotations": annotations, **more}


def image(content: ContentStore, *layers: dict[str, Any], others: tuple[str, ...] = ()) -> Image:
    (manifest,) = kept(content, msgspec.json.encode({"config": None, "layers": layers}))
    record = ImageRecord("sha256:1", (), attachments=(manifest, *others))
    return Image(record, ImageDocument(), b"", Names())


def test_attestation_statements_are_selected_by_type_and_returned_unchanged(content: ContentStore) -> None:
    one, two = kept(content, b'{ "predicate": 1 }', b'{"packages": []}')
    found = image(content, part(one), part(two, PACKAGES), others=(one, two))
    short = attestations(content, found, (), statements=False)
    assert [(each.descriptor.digest, each.predicate_type, each.statement) for each in short] == [
        (one, PROVENANCE, None),
        (two, PACKAGES, None),
    ]
    (whole,) = attestations(content, found, {PROVENANCE}, statements=True)
    assert whole.statement is not None and bytes(whole.statement) == b'{ "predicate": 1 }'
    assert attestations(content, found, {"https://example.com/other"}, statements=True) == []


def test_unreadable_attestation_statements_are_left_out(content: ContentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    good, broken, big = kept(content, b"{}", b"not JSON", b'"' + b"x" * 5000 + b'"')
    missing = "sha256:" + "0" * 64
    found = image(
        content,
        part(missing),
        part(broken),
        part(big),
        part(good),
        part(good, mediaType="application/octet-stream"),
        part(good, annotations=None),
    )
    monkeypatch.setattr(module, "_MAX_STATEMENT", 4096)
    assert [each.descriptor.digest for each in attestations(content, found, (), statements=True)] == [good]
    assert len(attestations(content, found, (), statements=False)) == 4


def test_number_of_returned_attestation_statements_is_limited(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = kept(content, b"{}")
    monkeypatch.setattr(module, "_MAX_STATEMENTS", 3)
    assert len(attestations(content, image(content, *[part(one)] * 10), (), statements=False)) == 3


def test_blob_above_the_size_limit_is_not_read_as_an_attestation_manifest(
    content: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = kept(content, b"{}")
    found = image(content, part(one))
    monkeypatch.setattr(module, "MAX_MANIFEST", 10)
    assert attestations(content, found, (), statements=False) == []


def test_attestation_list_of_an_image_without_an_index_is_empty(content: ContentStore) -> None:
    bare = Image(ImageRecord("sha256:1", ()), ImageDocument(), b"", Names())
    assert attestations(content, bare, (), statements=True) == []
