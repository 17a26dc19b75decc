"""Images with the `docker` client, without a registry: load, ls, tag, inspect, history, save, rmi, and their containers."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import pytest
from tests.integration.engine import Engine, archive
from tests.registry import busybox, docker_archive, image, layer, oci_archive

pytestmark = pytest.mark.root


def test_second_load_of_an_archive_changes_nothing(engine: Engine) -> None:
    before = engine.ok("images", "-q", "--no-trunc", "busybox")
    assert engine.docker("load", stdin=archive(), check=0).out == "Loaded image: busybox:latest\n"
    assert engine.ok("images", "-q", "--no-trunc", "busybox") == before


def test_docker_images_lists_all_tags(engine: Engine, name: str) -> None:
    engine.ok("tag", "busybox", f"{name}:one")
    engine.ok("tag", "busybox", f"registry.example:5000/team/{name}:two")
    lines = engine.ok("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
    ids = dict(line.split() for line in lines)
    names = ["busybox:latest", f"{name}:one", f"registry.example:5000/team/{name}:two"]
    (short,) = {ids[each] for each in names}
    assert re.fullmatch("[0-9a-f]{12}", short)
    assert engine.ok("images", "-q", f"{name}") == engine.ok("images", "-q", "busybox")
    out = engine.ok("rmi", f"{name}:one", f"registry.example:5000/team/{name}:two")
    assert out == f"Untagged: {name}:one\nUntagged: registry.example:5000/team/{name}:two"


def test_inspect_and_history_describe_an_image(engine: Engine) -> None:
    (found,) = json.loads(engine.ok("image", "inspect", "busybox"))
    assert found["RepoTags"][0] == "busybox:latest"
    assert found["Os"] == "linux"
    assert found["Config"]["Cmd"] == ["sh"]
    assert len(found["RootFS"]["Layers"]) == 1
    assert found["Size"] > 1_000_000
    assert Path(found["GraphDriver"]["Data"]["UpperDir"], "bin/busybox").exists()
    assert engine.ok("history", "--format", "{{.CreatedBy}}", "busybox") == "ADD layer0.tar /"


def test_container_has_the_settings_of_its_image(engine: Engine, name: str) -> None:
    config = {
        "Env": ["PATH=/bin", "A=image", "B=image"],
        "Entrypoint": ["sh", "-c"],
        "Cmd": ["echo $A $B; pwd; id -u"],
        "WorkingDir": "/srv",
        "User": "nobody",
        "Labels": {"from": "image"},
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "StopSignal": "SIGINT",
    }
    made = image([layer(busybox()), layer({"data/": None, "data/file": b"of the image\n"})], config=config)
    engine.docker("load", stdin=docker_archive({f"{name}:1": made}), check=0)
    try:
        assert engine.ok("run", "--name", name, "-e", "B=mine", f"{name}:1") == "image mine\n/srv\n65534"
        found = engine.inspect(name)
        assert found["Config"]["Env"] == ["B=mine", "PATH=/bin", "A=image"]
        assert found["Config"]["Labels"] == {"from": "image"}
        assert (found["Path"], found["Args"]) == ("sh", ["-c", "echo $A $B; pwd; id -u"])
        assert found["Config"]["StopSignal"] == "SIGINT"
        (mount,) = found["Mounts"]
        assert mount["Destination"] == "/data"
        assert Path(mount["Source"], "file").read_text() == "of the image\n"
        assert engine.ok("run", "--rm", "--entrypoint", "id", f"{name}:1", "-un") == "nobody"
        result = engine.docker("rmi", f"{name}:1")
        assert result.code == 1
        assert "conflict: unable to remove repository reference" in result.err
        assert engine.ok("ps", "-aq", "--filter", f"ancestor={name}:1") == found["Id"][:12]
    finally:
        engine.ok("rm", "-fv", name)
        engine.ok("rmi", f"{name}:1")


def test_whiteouts_of_layers_remove_files(engine: Engine, name: str) -> None:
    made = image([layer(busybox()), layer({"etc/.wh.passwd": b"", "new": b"n"}), layer({".wh.new": b""})])
    engine.docker("load", stdin=docker_archive({f"{name}:1": made}), check=0)
    out = engine.ok("run", "--rm", f"{name}:1", "sh", "-c", "ls /etc/passwd /new 2>&1; ls -d /etc/group")
    assert "/etc/passwd: No such file" in out
    assert "/new: No such file" in out
    assert out.endswith("/etc/group")
    engine.ok("rmi", f"{name}:1")


def test_oci_layout_is_loaded(engine: Engine, name: str) -> None:
    made = image([layer(busybox(), oci=True), layer({"name": name.encode()}, oci=True, compression="zstd")], oci=True)
    engine.docker("load", stdin=oci_archive({f"docker.io/library/{name}:1": made}), check=0)
    assert engine.ok("run", "--rm", f"{name}:1", "cat", "/name") == name
    engine.ok("rmi", f"{name}:1")


def test_damaged_archives_are_refused(engine: Engine) -> None:
    for damaged in (b"no archive", archive()[:100_000], b""):
        result = engine.docker("load", stdin=damaged)
        assert result.code == 1, damaged[:20]
        assert result.err != ""
    assert engine.ok("run", "--rm", "busybox", "echo", "well") == "well"


def test_rmi_of_an_unknown_image_is_refused(engine: Engine) -> None:
    result = engine.docker("rmi", "no-such-image")
    assert (result.code, result.err) == (1, "Error response from daemon: No such image: no-such-image:latest\n")


def test_exported_root_file_system_can_be_imported_as_an_image(engine: Engine, name: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, content in busybox().items():
            entry = tarfile.TarInfo(path)
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, tuple):
                entry.type, entry.linkname = tarfile.LNKTYPE, content[1]
            else:
                entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    image_id = engine.ok("import", "-c", 'CMD ["echo", "imported"]', "-", f"{name}:1", stdin=data.getvalue())
    assert image_id.startswith("sha256:")
    assert engine.ok("run", "--rm", f"{name}:1") == "imported"
    engine.ok("rmi", f"{name}:1")
