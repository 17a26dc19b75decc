"""JSON of images in lists, inspect, history and removals."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orlop_api_docker.responses import encode
from orlop_api_docker.wire import images as wire
from orlop_engine.images.catalog import Catalog
from orlop_engine.images.details import HistoryStep, ImageDetails, ListedImage, ManifestDetails, RemovedItem, history
from orlop_engine.images.inspection import Distribution, DistributionPlatform
from orlop_engine.images.manifests import OCI_INDEX, Descriptor, OfferedPlatform
from orlop_engine.images.names import Names
from orlop_engine.images.platforms import Platform
from orlop_engine.images.records import Image, ImageRecord, Layer
from orlop_engine.types.images import History, ImageConfig, ImageDocument

LAYER = Layer("sha256:b", "application/x-tar", 10, "sha256:d", "sha256:c", 7)
DOCUMENT = ImageDocument(
    architecture="arm",
    os="linux",
    variant="v7",
    created="2024-01-02T03:04:05Z",
    config=ImageConfig(cmd=["sh"], labels={"a": "b"}),
    history=[History("2024-01-01T00:00:00Z", "ADD"), History("2024-01-02T03:04:05Z", "CMD", comment="c", empty_layer=True)],
)


def image(ident: str = "sha256:1", parent: str = "", document: ImageDocument = DOCUMENT) -> Image:
    return Image(ImageRecord(ident, (LAYER,), parent=parent), document, msgspec.json.encode(document), Names())


def view(version: tuple[int, int], **fields: Any) -> Any:
    found = ImageDetails(image(), ["x:1"], [], "overlay2", {}, **fields)
    return json.loads(encode(wire.image_view(found, version)))


def summary(version: tuple[int, int], *, tags: tuple[str, ...] = (), **fields: Any) -> Any:
    return json.loads(encode(wire.image_summary(ListedImage(image(), list(tags), [], 7, **fields), version)))


def test_list_item_describes_an_image() -> None:
    item = summary((1, 52), tags=("x:1",))
    assert (item["Id"], item["RepoTags"], item["Labels"], item["Size"]) == ("sha256:1", ["x:1"], {"a": "b"}, 7)
    assert (item["SharedSize"], item["Containers"]) == (-1, -1)
    assert "VirtualSize" not in item and "Manifests" not in item
    item = summary((1, 43), shared_size=3, containers=0, manifests=[])
    assert (item["SharedSize"], item["Containers"], item["VirtualSize"], item["Manifests"]) == (3, 0, 7, [])


@pytest.mark.parametrize(
    ("version", "tags", "shown"),
    [((1, 42), (), ["<none>:<none>"]), ((1, 43), (), []), ((1, 42), ("x:1",), ["x:1"])],
)
def test_image_without_names_has_the_tag_none_none_before_api_1_43(
    version: tuple[int, int], tags: tuple[str, ...], shown: list[str]
) -> None:
    assert summary(version, tags=tags)["RepoTags"] == shown


def test_manifest_list_in_the_answer_describes_images_and_attestations() -> None:
    descriptor = Descriptor("sha256:m", 5, "application/json")
    manifests = [
        ManifestDetails(descriptor=descriptor, kind="image", stored=4, unpacked=3, platform=Platform("linux", "arm", "v7")),
        ManifestDetails(descriptor=descriptor, kind="attestation", available=True, stored=2, about="sha256:a"),
        ManifestDetails(descriptor=descriptor, kind="unknown"),
    ]
    mine, attestation, unknown = view((1, 52), manifests=manifests)["Manifests"]
    assert mine["Size"] == {"Content": 4, "Total": 7} and mine["ImageData"]["Size"] == {"Unpacked": 3}
    assert mine["ImageData"]["Platform"] == {"architecture": "arm", "os": "linux", "variant": "v7"}
    assert mine["Descriptor"] == {"mediaType": "application/json", "digest": "sha256:m", "size": 5}
    assert attestation["AttestationData"] == {"For": "sha256:a"} and "ImageData" not in attestation
    assert unknown["Kind"] == "unknown" and not unknown["Available"] and "ImageData" not in unknown


def test_fields_of_the_inspect_answer_depend_on_the_api_version() -> None:
    newest, middle, old = view((1, 52)), view((1, 50)), view((1, 43))
    assert newest["Config"] == {"Cmd": ["sh"], "Labels": {"a": "b"}}
    assert middle["Config"]["User"] == "" and middle["Config"]["Volumes"] is None
    assert "AttachStdin" in old["Config"] and "ContainerConfig" in old and old["VirtualSize"] == 7
    assert "ContainerConfig" not in newest and "VirtualSize" not in newest
    assert (newest["Comment"], newest["Variant"]) == ("c", "v7")
    assert newest["RootFS"] == {"Type": "layers", "Layers": ["sha256:d"]}
    assert newest["GraphDriver"] == {"Data": None, "Name": "overlay2"}
    assert newest["Metadata"] == {"LastTagTime": "0001-01-01T00:00:00Z"}


def test_empty_text_fields_are_left_out_since_api_1_52() -> None:
    names = ("Parent", "DockerVersion", "Author")
    assert [view((1, 51)).get(name) for name in names] == ["", "", ""]
    assert not set(names) & view((1, 52)).keys()


def test_answers_contain_the_descriptor_and_the_repositories_of_an_image() -> None:
    offered = OfferedPlatform("windows", "amd64", os_version="10.0.1", os_features=("win32k",))
    target = Descriptor("sha256:i", 9, OCI_INDEX, artifact_type="a/b", platform=offered)
    shown = view((1, 53), target=target, repositories=["docker.io/library/x", "registry.example.com/y"])
    assert shown["Descriptor"] == {
        "mediaType": OCI_INDEX,
        "digest": "sha256:i",
        "size": 9,
        "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0.1", "os.features": ["win32k"]},
        "artifactType": "a/b",
    }
    pulls = [{"Repository": "docker.io/library/x"}, {"Repository": "registry.example.com/y"}]
    assert shown["Identity"] == {"Pull": pulls}
    assert not {"Descriptor", "Identity"} & view((1, 53)).keys()
    assert summary((1, 48), target=target)["Descriptor"]["digest"] == "sha256:i"
    manifest = ManifestDetails(descriptor=target, kind="image", platform=Platform("linux", "arm"), repositories=["x/y"])
    (one,) = summary((1, 54), manifests=[manifest])["Manifests"]
    assert one["ImageData"]["Identity"] == {"Pull": [{"Repository": "x/y"}]}


def test_history_answer_contains_the_build_steps_and_the_ids_of_parent_images() -> None:
    catalog = Catalog()
    parent, child = image("sha256:1"), image("sha256:2", parent="sha256:1")
    for each in (parent, child):
        catalog.put(each.record, each.document, each.raw)
    steps = history(child, catalog)
    assert [(step.step.created_by, step.size) for step in steps] == [("CMD", 0), ("ADD", 7)]
    assert [item.id for item in wire.history_items(steps)] == ["sha256:2", "sha256:1"]
    (item,) = wire.history_items([HistoryStep(History(), 0, None)])
    assert (item.id, item.tags, item.created) == ("<missing>", None, -62135596800)


def test_answer_to_an_image_removal_contains_untagged_names_and_deleted_ids() -> None:
    shown = encode(wire.deleted_items([RemovedItem(untagged="x:1"), RemovedItem(deleted="sha256:1")]))
    assert json.loads(shown) == [{"Untagged": "x:1"}, {"Deleted": "sha256:1"}]


def test_distribution_answer_contains_the_platforms_of_an_image_in_a_registry() -> None:
    descriptor = Descriptor("sha256:m", 5, "application/json")
    platforms = [DistributionPlatform("arm", "linux", "", (), ""), DistributionPlatform("", "", "10", ("x",), "v8")]
    shown = json.loads(encode(wire.distribution_view(Distribution(descriptor, platforms))))
    assert shown["Descriptor"] == {"mediaType": "application/json", "digest": "sha256:m", "size": 5}
    assert shown["Platforms"] == [
        {"architecture": "arm", "os": "linux"},
        {"architecture": "", "os": "", "os.version": "10", "os.features": ["x"], "variant": "v8"},
    ]
    assert json.loads(encode(wire.distribution_view(Distribution(descriptor, None))))["Platforms"] is None
