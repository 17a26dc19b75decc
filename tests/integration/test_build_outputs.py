"""The outputs of builds for clients and registries: archives, OCI layouts, pushes, indexes, attestations."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine
from tests.integration.parity import Side
from tests.integration.test_build_clients import Client
from tests.integration.test_platforms_client import MINE, binfmt, emulated, emulator
from tests.registry import index, push_index
from tests.registry.server import Registry, running

__all__ = ["binfmt", "emulator"]  # fixtures

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

DOCKERFILE = "FROM busybox\nRUN echo built > /made\nCOPY file /copied\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
INDEX = "application/vnd.oci.image.index.v1+json"
IN_TOTO = "application/vnd.in-toto+json"

# Writes a statement with the number of files that it has scanned
SCANNER = r"""FROM busybox
COPY --chmod=755 <<'END' /scan
#!/bin/sh
set -e
! touch $BUILDKIT_SCAN_SOURCE/other 2>/dev/null || exit 3
cat > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<JSON
{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://spdx.dev/Document",
 "predicate": {"SPDXID": "SPDXRef-DOCUMENT", "name": "made $(cat $BUILDKIT_SCAN_SOURCE/made)"}}
JSON
END
ENTRYPOINT ["/scan"]
"""


@pytest.fixture
def client(shared: Engine, tmp_path: Path) -> Iterator[Client]:
    made = tmp_path / "client"
    made.mkdir()
    found = Client(Side("orlop", shared.socket, tmp_path, ""), shared.env, made)
    found.env.pop("BUILDX_NO_DEFAULT_ATTESTATIONS", None)
    (made / "file").write_text("from the context\n")
    (made / "Dockerfile").write_text(DOCKERFILE)
    yield found
    names = found.run("images", "-q", "--no-trunc", "--filter", "reference=tb-*").out.split()
    names += found.run("images", "-q", "--no-trunc", "--filter", "reference=127.0.0.1:*/*").out.split()
    found.run("image", "rm", "-f", *(names or ["none"]))


@pytest.fixture
def registry() -> Iterator[Registry]:
    with running() as found:
        yield found


def member(archive: tarfile.TarFile, name: str) -> bytes:
    content = archive.extractfile(name)
    assert content is not None
    return content.read()


def document(archive: tarfile.TarFile, digest: str) -> Any:
    return json.loads(member(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}"))


def opened(data: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(data))


def raw(client: Client, name: str) -> Any:
    """The manifest or index that a registry has under a name."""
    return json.loads(client.ok("buildx", "imagetools", "inspect", "--raw", name).out)


def test_orlop_and_dockerd_can_load_an_exported_docker_archive(client: Client, sides: tuple[Side, Side]) -> None:
    for where in (["dest=out.tar"], ["dest=-"]):
        result = client.ok("build", "-o", ",".join(["type=docker,name=tb-archive:1", *where]), ".")
    data = (client.directory / "out.tar").read_bytes()
    assert result.stdout[:1000] == data[:1000]
    with opened(data) as archive:
        (entry,) = json.loads(member(archive, "manifest.json"))
        assert entry["RepoTags"] == ["tb-archive:1"]
        (root,) = json.loads(member(archive, "index.json"))["manifests"]
        assert root["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
        assert document(archive, root["digest"])["config"]["digest"].endswith(entry["Config"].rpartition("/")[2])
    assert client.run("image", "inspect", "tb-archive:1").code != 0, "an archive makes no image here"
    for side in sides:
        each = Client(side, client.env, client.directory)
        each.ok("load", "-i", "out.tar")
        assert each.ok("run", "--rm", "--network=none", "tb-archive:1", "cat", "/made", "/copied").out == (
            "built\nfrom the context\n"
        )
        each.ok("image", "rm", "-f", "tb-archive:1")


def test_an_oci_archive_and_an_oci_layout_have_the_same_image(client: Client) -> None:
    client.ok("build", "-o", "type=oci,dest=out.tar,name=tb-oci:1", "--metadata-file", "meta", ".")
    metadata = json.loads((client.directory / "meta").read_text())
    with opened((client.directory / "out.tar").read_bytes()) as archive:
        (root,) = json.loads(member(archive, "index.json"))["manifests"]
        assert root["mediaType"] == MANIFEST
        assert root["annotations"]["io.containerd.image.name"] == "docker.io/library/tb-oci:1"
        assert metadata["containerimage.digest"] == root["digest"] == metadata["containerimage.descriptor"]["digest"]
        assert "manifest.json" not in archive.getnames()
    client.ok("build", "-o", "type=oci,dest=layout,tar=false,name=tb-oci:1", ".")
    (entry,) = json.loads((client.directory / "layout" / "index.json").read_text())["manifests"]
    assert entry["digest"] == root["digest"]
    blobs = {path.name for path in (client.directory / "layout" / "blobs" / "sha256").iterdir()}
    with opened((client.directory / "out.tar").read_bytes()) as archive:
        assert blobs == {Path(name).name for name in archive.getnames() if name.startswith("blobs/sha256/") and name[13:]}
    # The second export finds the blobs in the layout
    client.ok("build", "-o", "type=oci,dest=layout,tar=false", ".")


@pytest.mark.parametrize(
    ("options", "suffixes"),
    [
        ("compression=zstd", {"tar+gzip", "tar+zstd"}),
        ("compression=zstd,compression-level=7,force-compression=true", {"tar+zstd"}),
        ("compression=uncompressed,force-compression=true", {"tar"}),
        ("compression=gzip,compression-level=9", {"tar+gzip"}),
    ],
)
def test_layers_have_the_requested_compression(client: Client, options: str, suffixes: set[str]) -> None:
    client.ok("build", "-o", f"type=oci,dest=out.tar,{options}", ".")
    with opened((client.directory / "out.tar").read_bytes()) as archive:
        (root,) = json.loads(member(archive, "index.json"))["manifests"]
        layers = document(archive, root["digest"])["layers"]
    assert {layer["mediaType"].removeprefix("application/vnd.oci.image.layer.v1.") for layer in layers} <= {
        *suffixes,
        "tar",
    }
    assert {layer["mediaType"].removeprefix("application/vnd.oci.image.layer.v1.") for layer in layers[1:]} <= suffixes
    client.ok("load", "-i", "out.tar")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("type=oci,dest=x,compression=lzma", "unsupported compression type lzma"),
        ("type=oci,dest=x,compression=gzip,compression-level=10", "invalid compression-level"),
        ("type=oci,dest=x,oci-mediatypes=perhaps", "non-bool value specified for oci-mediatypes"),
        ("type=image,name=A", "failed to parse target name"),
    ],
)
def test_invalid_exporter_attributes_are_refused(client: Client, options: str, message: str) -> None:
    result = client.build("-o", options, ".")
    assert result.code != 0
    assert message in result.err


def test_build_with_push_shows_the_progress_of_the_push_and_keeps_annotations(client: Client, registry: Registry) -> None:
    name = f"{registry.host}/tb/pushed:1"
    options = ["--provenance=false", "--annotation", "org.example.key=value", "--push"]
    result = client.ok("buildx", "build", "--progress=plain", "-t", name, *options, "--metadata-file", "meta", ".")
    assert "pushing layers" in result.err
    manifest = raw(client, name)
    assert manifest["annotations"] == {"org.example.key": "value"}
    metadata = json.loads((client.directory / "meta").read_text())
    assert f"pushing manifest for {name}@{metadata['containerimage.digest']}" in result.err
    assert client.ok("image", "inspect", "-f", "{{.Id}}", name).line == manifest["config"]["digest"]
    assert metadata["containerimage.digest"] in client.ok("image", "inspect", "-f", "{{.RepoDigests}}", name).out
    client.ok("image", "rm", "-f", name)
    client.ok("pull", "-q", name)
    assert client.ok("run", "--rm", "--network=none", name, "cat", "/made").out == "built\n"


def has_tags(registry: Registry, repository: str) -> bool:
    manifests = Path(registry.root, "data/docker/registry/v2/repositories", repository, "_manifests")
    assert (manifests / "revisions").is_dir()
    return (manifests / "tags").exists()


@pytest.mark.parametrize("platforms", ["linux/amd64", "linux/amd64,linux/arm64"])
def test_push_by_digest_makes_no_tag(client: Client, registry: Registry, platforms: str) -> None:
    """buildx refuses `push=true` together with `push-by-digest`. It accepts an empty value, which means true as well."""
    (client.directory / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    name = f"{registry.host}/tb/digest"
    output = f"type=image,name={name},push=,push-by-digest=true,name-canonical=true"
    options = ["--provenance=false", "--platform", platforms, "--metadata-file", "meta"]
    client.ok("buildx", "build", "-o", output, *options, ".")
    digest = json.loads((client.directory / "meta").read_text())["containerimage.digest"]
    assert not has_tags(registry, "tb/digest")
    with urllib.request.urlopen(f"http://{registry.host}/v2/tb/digest/manifests/{digest}", timeout=30) as answer:
        assert "sha256:" + hashlib.sha256(answer.read()).hexdigest() == digest
    shown = client.ok("image", "inspect", "-f", '{{join .RepoDigests " "}}', f"{name}@{digest}").line
    assert f"{name}@{digest}" in shown.split()
    client.run("image", "rm", "-f", name, f"{name}@{digest}")

    refused = client.build("-o", output.replace(name, f"{name}:1"), *options, ".")
    assert refused.code != 0
    assert f"can't push tagged ref {name}:1 by digest" in refused.err
    assert not has_tags(registry, "tb/digest")


def test_stored_image_gets_a_name_with_its_digest_if_requested(client: Client) -> None:
    client.ok("buildx", "build", "-o", "type=image,name=tb-canonical:1,name-canonical=true", "--metadata-file", "meta", ".")
    digest = json.loads((client.directory / "meta").read_text())["containerimage.digest"]
    (shown,) = json.loads(client.ok("image", "inspect", f"tb-canonical@{digest}").out)
    # Other tests may have built the same image with other names
    assert "tb-canonical:1" in shown["RepoTags"] and f"tb-canonical@{digest}" in shown["RepoDigests"]


def test_a_push_to_a_registry_that_does_not_answer_fails(client: Client, registry: Registry) -> None:
    name = f"{registry.host}1/tb/none:1"
    result = client.run("buildx", "build", "--progress=plain", "-t", name, "--push", ".")
    assert result.code != 0
    assert "failed to push" in result.err


def test_build_for_several_platforms_makes_one_image_index(
    client: Client, registry: Registry, sides: tuple[Side, Side]
) -> None:
    (client.directory / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY file /for-$TARGETARCH\n")
    client.ok("build", "-t", "tb-several", "--platform", "linux/arm64,linux/amd64", ".")
    assert client.ok("image", "inspect", "-f", "{{.Architecture}}", "tb-several").line == "amd64"
    name = f"{registry.host}/tb/several:1"
    client.ok("tag", "tb-several", name)
    client.ok("push", "-q", name)
    listed = raw(client, name)
    assert listed["mediaType"] == LIST
    assert sorted(entry["platform"]["architecture"] for entry in listed["manifests"]) == ["amd64", "arm64"]
    built = f"{registry.host}/tb/several:2"
    client.ok("buildx", "build", "-t", built, "--platform", "linux/arm64,linux/amd64", "--provenance=false", "--push", ".")
    assert raw(client, built)["manifests"] == listed["manifests"]
    client.ok("build", "--platform", "linux/arm64,linux/amd64", "--provenance=false", "-o", "type=oci,dest=out.tar", ".")
    with opened((client.directory / "out.tar").read_bytes()) as archive:
        (root,) = json.loads(member(archive, "index.json"))["manifests"]
        found = document(archive, root["digest"])
        assert found["mediaType"] == INDEX
        assert [each["platform"] for each in found["manifests"]] == [each["platform"] for each in listed["manifests"]]
    theirs = Client(sides[0], client.env, client.directory)
    theirs.ok("pull", "-q", "--platform", "linux/arm64", built)
    assert theirs.ok("image", "inspect", "-f", "{{.Architecture}}", built).line == "arm64"
    theirs.ok("image", "rm", built)
    refused = client.build("--platform", "linux/arm64,linux/amd64", "-o", "type=docker,dest=x.tar", ".")
    assert "does not support exporting manifest lists" in refused.err
    one = client.build(
        "--platform", "linux/arm64", "-o", "type=oci,dest=one.tar", "--annotation", "manifest[linux/s390x]:a=b", "."
    )
    assert "invalid annotation: no platform linux/s390x found in source" in one.err


def test_emulator_runs_the_steps_for_a_foreign_platform(
    client: Client, registry: Registry, shared: Engine, emulator: None
) -> None:
    name, other = f"{registry.host}/tb/multi:1", emulated("base")
    push_index(registry.host, "tb/multi", "1", index([other, MINE], oci=True), (other, MINE))
    for pid in shared.children("orlop-builder"):
        os.kill(pid, signal.SIGKILL)  # the next builder finds the emulator
    (client.directory / "Dockerfile").write_text(f'FROM {name}\nRUN ["/bin/echo", "was here"]\nCOPY file /\n')
    result = client.build("--platform", "linux/amd64,linux/s390x", "-t", "tb-emulated", ".")
    assert result.code == 0, result.err
    for platform in ("linux/amd64", "linux/s390x"):
        assert f"[{platform} 2/3] RUN" in result.err
    assert result.err.count("was here\n") == 2
    assert "linux/s390x" in client.ok("buildx", "inspect").out
    tags = [tag for each in shared.api("GET", "/images/json")[1] for tag in each["RepoTags"] or ()]
    assert not [tag for tag in tags if "@" in tag], "a base that was pulled by digest has no tag"


def test_only_pushed_images_have_attestations_by_default(client: Client, registry: Registry) -> None:
    name = f"{registry.host}/tb/attested:1"
    client.ok("build", "-t", name, ".")
    assert "attestation" not in client.build("-t", name, ".").err
    client.ok("buildx", "build", "-t", name, "--push", ".")
    listed = raw(client, name)
    image, about = listed["manifests"]
    assert about["annotations"] == {
        "vnd.docker.reference.digest": image["digest"],
        "vnd.docker.reference.type": "attestation-manifest",
    }
    assert about["platform"] == {"architecture": "unknown", "os": "unknown"}
    plain = f"{registry.host}/tb/attested:2"
    client.ok("buildx", "build", "-t", plain, "--push", "--provenance=false", ".")
    assert "manifests" not in raw(client, plain)
    # The stored image is pushed unchanged to another registry
    again = f"{registry.host}/tb/again:1"
    client.ok("tag", name, again)
    client.ok("push", "-q", again)
    assert raw(client, again) == listed


def test_buildx_imagetools_shows_the_provenance_of_a_pushed_image(client: Client, registry: Registry) -> None:
    found = {}
    for mode in ("min", "max"):
        name = f"{registry.host}/tb/provenance:{mode}"
        options = [f"--provenance=mode={mode},builder-id=https://example.org/b", "--build-arg", "X=1", "--label", "l=v"]
        client.ok("buildx", "build", "-t", name, *options, "--push", ".")
        shown = client.ok("buildx", "imagetools", "inspect", name, "--format", "{{json .Provenance.SLSA}}")
        found[mode] = json.loads(shown.out)
    least, most = found["min"], found["max"]
    assert least["buildType"] == "https://mobyproject.org/buildkit@v1"
    assert least["builder"]["id"] == "https://example.org/b"
    (material,) = least["materials"]
    assert material["uri"] == "pkg:docker/busybox@latest?platform=linux%2Famd64"
    assert material["digest"]["sha256"]
    assert least["invocation"]["parameters"]["locals"] == [{"name": "context"}, {"name": "dockerfile"}]
    assert "args" not in least["invocation"]["parameters"]
    assert least["metadata"]["completeness"] == {"environment": True, "materials": False, "parameters": False}
    assert "buildConfig" not in least
    assert most["invocation"]["parameters"]["args"] == {"build-arg:X": "1", "label:l": "v"}
    steps = most["buildConfig"]["llbDefinition"]
    assert any("exec" in step["op"].get("Op", {}) for step in steps)
    (source,) = most["metadata"]["https://mobyproject.org/buildkit@v1#metadata"]["source"]["infos"]
    assert source["filename"] == "Dockerfile"
    assert client.build("--provenance=mode=some", ".").code != 0


def test_scanner_image_adds_a_bill_of_materials_to_the_built_image(client: Client, registry: Registry) -> None:
    (client.directory / "Scanner").write_text(SCANNER)
    client.ok("build", "-t", "tb-scanner", "-f", "Scanner", ".")
    name = f"{registry.host}/tb/sbom:1"
    result = client.run(
        *("buildx", "build", "--progress=plain", "-t", name, "--provenance=false"),
        *("--sbom=generator=tb-scanner", "--push", "."),
    )
    assert result.code == 0, result.err
    assert "generating sbom using docker.io/library/tb-scanner:latest" in result.err
    shown = client.ok("buildx", "imagetools", "inspect", name, "--format", "{{json .SBOM.SPDX}}")
    assert json.loads(shown.out)["name"] == "made built"
    about = raw(client, name)["manifests"][1]
    (statement,) = raw(client, f"{name.rpartition(':')[0]}@{about['digest']}")["layers"]
    assert statement["mediaType"] == IN_TOTO
    assert statement["annotations"] == {"in-toto.io/predicate-type": "https://spdx.dev/Document"}
    # The statement is also kept with an image in the store
    client.ok("build", "-t", "tb-with-sbom", "--sbom=generator=tb-scanner", ".")
    (client.directory / "Nothing").write_text("FROM scratch\nCOPY file /\n")
    client.ok("build", "-t", "tb-nothing", "-f", "Nothing", ".")
    assert "does not have cmd" in client.build("--sbom=generator=tb-nothing", ".").err


def test_source_date_epoch_makes_builds_reproducible(client: Client) -> None:
    ids = set()
    for output in ("type=image,name=tb-epoch", "type=image,name=tb-epoch", "type=oci,dest=out.tar"):
        options = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "--provenance=false"]
        client.ok("build", *options, "-o", f"{output},rewrite-timestamp=true", "--iidfile", "id", ".")
        ids.add((client.directory / "id").read_text())
    assert len(ids) == 1
    shown = client.ok("run", "--rm", "--network=none", "tb-epoch", "stat", "-c", "%Y", "/made", "/copied")
    assert shown.out == "1000000000\n1000000000\n"
    assert client.ok("image", "inspect", "-f", "{{.Created}}", "tb-epoch").line == "2001-09-09T01:46:40Z"
    assert client.ok("run", "--rm", "--network=none", "tb-epoch", "cat", "/copied").out == "from the context\n"


def test_image_that_is_pushed_with_store_false_is_not_stored(client: Client, registry: Registry) -> None:
    """With `push=true,store=false`, the image is pushed but not stored."""
    name = f"{registry.host}/tb/alone:1"
    client.run("buildx", "build", "-o", f"type=image,name={name},push=true,store=false", "--provenance=false", ".")
    assert client.run("image", "inspect", name).code != 0
    assert raw(client, name)["layers"]


def test_files_of_each_platform_are_exported_to_a_separate_directory(client: Client) -> None:
    text = "FROM scratch\nARG TARGETARCH\nCOPY file /for-$TARGETARCH\n"
    (client.directory / "Dockerfile").write_text(text)
    platforms = ["--platform", "linux/arm64,linux/amd64"]
    client.ok("build", *platforms, "-o", "type=local,dest=out", ".")
    found = {str(path.relative_to(client.directory / "out")) for path in (client.directory / "out").rglob("for-*")}
    assert found == {"linux_arm64/for-arm64", "linux_amd64/for-amd64"}
    client.ok("build", *platforms, "-o", "type=tar,dest=out.tar", ".")
    with opened((client.directory / "out.tar").read_bytes()) as archive:
        assert sorted(archive.getnames()) == ["linux_amd64", "linux_amd64/for-amd64", "linux_arm64", "linux_arm64/for-arm64"]
    client.ok("build", *platforms, "-o", "type=local,dest=together,platform-split=false", ".")
    assert sorted(path.name for path in (client.directory / "together").iterdir()) == ["for-amd64", "for-arm64"]
    (client.directory / "Dockerfile").write_text("FROM scratch\nCOPY file /same\n")
    refused = client.build(*platforms, "-o", "type=local,dest=again,platform-split=false", ".")
    assert "cannot overwrite same from" in refused.err


def test_exports_of_files_contain_attestations_if_requested(client: Client) -> None:
    (client.directory / "Dockerfile").write_text("FROM scratch\nCOPY file /dir/copied\n")
    client.ok("build", "-o", "type=local,dest=out", ".")
    assert not (client.directory / "out" / "provenance.json").exists(), "it was not asked for"
    client.ok("build", "--provenance=true", "-o", "type=local,dest=out", ".")
    said = json.loads((client.directory / "out" / "provenance.json").read_text())
    assert said["predicateType"] == "https://slsa.dev/provenance/v0.2"
    digest = hashlib.sha256(b"from the context\n").hexdigest()
    assert said["subject"] == [{"name": "dir/copied", "digest": {"sha256": digest}}]
    client.ok("build", "--provenance=true", "-o", "type=tar,dest=out.tar,attestation-prefix=x-", ".")
    with opened((client.directory / "out.tar").read_bytes()) as archive:
        assert json.loads(member(archive, "x-provenance.json"))["subject"] == said["subject"]
    (client.directory / "Dockerfile").write_text("FROM scratch\nCOPY file /provenance.json\n")
    refused = client.build("--provenance=true", "-o", "type=local,dest=other", ".")
    assert "duplicate attestation path name provenance.json" in refused.err


def test_exported_files_have_the_time_of_source_date_epoch(client: Client, sides: tuple[Side, Side]) -> None:
    theirs = Client(sides[0], client.env, client.directory)
    for each in (theirs, client):
        options = ["--build-arg", "SOURCE_DATE_EPOCH=1000000000"]
        each.ok("build", *options, "-o", f"type=local,dest={each.name}", ".")
        assert (client.directory / each.name / "copied").stat().st_mtime == 1_000_000_000, each.name
        each.ok("build", *options, "-o", f"type=tar,dest={each.name}.tar", ".")
        with opened((client.directory / f"{each.name}.tar").read_bytes()) as archive:
            assert archive.getmember("copied").mtime == 1_000_000_000, each.name


def test_orlop_build_exports_images_with_the_buildx_plugin_of_docker(
    client: Client, shared: Engine, registry: Registry
) -> None:
    name = f"{registry.host}/tb/orlop:1"
    directory = str(client.directory)
    result = shared.orlop("build", "-t", name, "--push", "--provenance=false", directory)
    assert result.code == 0, result.err
    assert raw(client, name)["layers"]
    result = shared.orlop("build", "-o", f"type=oci,dest={directory}/orlop.tar", "--cache-to", "type=inline", directory)
    assert result.code == 0, result.err
    with opened((client.directory / "orlop.tar").read_bytes()) as archive:
        (root,) = json.loads(member(archive, "index.json"))["manifests"]
        config = document(archive, document(archive, root["digest"])["config"]["digest"])
    assert "moby.buildkit.cache.v0" in config
