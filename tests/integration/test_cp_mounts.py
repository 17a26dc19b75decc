"""`docker cp` with mounts in the container: mounts at paths that the image lacks, nested and read-only mounts, and mounts of
files and of volume subpaths.

The result is the same before the start, while the container runs, and after its exit.
"""

import io
import tarfile

import pytest
from tests.integration.engine import BUSYBOX

pytestmark = pytest.mark.root


def content(engine, where):
    """File names and content in the tar of `docker cp`; {} if the path does not exist."""
    sent = engine.docker("cp", where, "-")
    if sent.code:
        assert "Could not find the file" in sent.err
        return {}
    with tarfile.open(fileobj=io.BytesIO(sent.stdout)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


@pytest.fixture
def volume(engine, name):
    script = "mkdir /v/sub; echo one > /v/one; echo two > /v/sub/two; ln -s sub /v/link; ln -s / /v/out"
    engine.ok("run", "--rm", "--network", "none", "-v", f"vol-{name}:/v", BUSYBOX, "sh", "-c", script)
    yield f"vol-{name}"
    for container in engine.docker("ps", "-aq").out.split():
        engine.ok("rm", "-f", container)
    engine.ok("volume", "rm", f"vol-{name}")


def create(engine, name, *options, script="sleep 1000"):
    engine.ok("create", "--name", name, "--network", "none", *options, BUSYBOX, "sh", "-c", script)


STATES = ["created", "running", "stopped"]


def bring(engine, name, state):
    if state != "created":
        engine.ok("start", name)
    if state == "stopped":
        engine.ok("stop", "-t", "0", name)


@pytest.mark.parametrize("state", STATES)
def test_cp_can_read_mounts_at_paths_that_the_image_lacks(engine, name, volume, tmp_path, state):
    (tmp_path / "file").write_bytes(b"bound\n")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/inner").write_bytes(b"nested\n")
    create(
        engine,
        name,
        *("-v", f"{volume}:/backup", "-v", f"{tmp_path}/file:/new/place", "-v", f"{volume}:/deep/er/vol"),
        *("-v", f"{tmp_path}/dir:/deep/er/vol/sub/dir"),
        *("--mount", f"type=volume,src={volume},dst=/part,volume-subpath=link"),
    )
    bring(engine, name, state)
    assert content(engine, f"{name}:/backup/one") == {"one": b"one\n"}
    assert content(engine, f"{name}:/backup") == {"backup/one": b"one\n", "backup/sub/two": b"two\n"}
    assert content(engine, f"{name}:/new") == {"new/place": b"bound\n"}
    assert content(engine, f"{name}:/part") == {"part/two": b"two\n"}
    nested = {"deep/er/vol/one": b"one\n", "deep/er/vol/sub/two": b"two\n", "deep/er/vol/sub/dir/inner": b"nested\n"}
    assert content(engine, f"{name}:/deep") == nested
    engine.ok("rm", "-f", name)


def test_cp_out_of_a_container_changes_neither_the_container_nor_its_volume(engine, name, volume, tmp_path):
    create(engine, name, "-v", f"{volume}:/backup", "-v", f"{tmp_path}:/backup/sub/inner")
    (tmp_path / "f").write_bytes(b"x")
    assert content(engine, f"{name}:/backup/sub/inner") == {"inner/f": b"x"}
    assert engine.ok("diff", name) == ""
    listed = engine.ok("run", "--rm", "--network", "none", "-v", f"{volume}:/v", BUSYBOX, "ls", "/v/sub")
    assert listed == "two"
    engine.ok("rm", name)


@pytest.mark.parametrize("state", STATES)
def test_cp_writes_into_volumes_and_binds(engine, name, volume, tmp_path, state):
    create(engine, name, "-v", f"{volume}:/backup")
    bring(engine, name, state)
    (tmp_path / "file").write_bytes(b"copied\n")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/inner").write_bytes(b"inner\n")
    engine.ok("cp", str(tmp_path / "file"), f"{name}:/backup/file")
    engine.ok("cp", str(tmp_path / "dir"), f"{name}:/backup")
    engine.ok("cp", f"{tmp_path}/dir/.", f"{name}:/backup/sub")
    script = "cat /v/file /v/dir/inner /v/sub/inner"
    copied = engine.ok("run", "--rm", "--network", "none", "-v", f"{volume}:/v", BUSYBOX, "sh", "-c", script)
    assert copied.split() == ["copied", "inner", "inner"]
    engine.ok("rm", "-f", name)


@pytest.mark.parametrize("state", STATES)
def test_cp_into_a_read_only_volume_is_refused(engine, name, volume, tmp_path, state):
    create(engine, name, "-v", f"{volume}:/fixed:ro")
    bring(engine, name, state)
    (tmp_path / "file").write_bytes(b"copied\n")
    assert content(engine, f"{name}:/fixed/one") == {"one": b"one\n"}
    refused = engine.docker("cp", str(tmp_path / "file"), f"{name}:/fixed/")
    assert refused.err == "Error response from daemon: mounted volume is marked read-only\n"
    engine.ok("rm", "-f", name)


def test_cp_does_not_copy_the_files_of_a_tmpfs(engine, name):
    """As in dockerd, files that are copied to the path of the tmpfs are stored in the root file system below the tmpfs."""
    create(engine, name, "--tmpfs", "/t")
    assert content(engine, f"{name}:/t") == {}
    engine.ok("start", name)
    engine.ok("exec", name, "touch", "/t/inside")
    assert content(engine, f"{name}:/t") == {}
    engine.ok("rm", "-f", name)


def test_cp_finds_no_files_in_a_subpath_that_leads_out_of_the_volume(engine, name, volume):
    mount = f"type=volume,src={volume},dst=/m,volume-subpath=later"
    create(engine, name, "--mount", mount)
    link = ("run", "--rm", "--network", "none", "-v", f"{volume}:/v", BUSYBOX, "ln", "-s", "/", "/v/later")
    engine.ok(*link)
    assert content(engine, f"{name}:/m") == {}
    refused = engine.api("POST", f"/containers/{name}/start")
    base = f"{engine.data_root}/volumes/{volume}/_data"
    assert refused == (400, {"message": f"path concatenation escapes the base directory, base: {base}, subpath: later"})
    engine.ok("rm", name)


def test_files_of_the_image_are_copied_into_an_empty_volume_subpath(engine, name, volume):
    def etc(subpath):
        mount = f"type=volume,src={volume},dst=/etc,volume-subpath={subpath}"
        return engine.docker("run", "--rm", "--network", "none", "--mount", mount, BUSYBOX, "ls", "/etc").out.split()

    engine.ok("run", "--rm", "--network", "none", "-v", f"{volume}:/v", BUSYBOX, "mkdir", "/v/empty", "/v/plain")
    assert {"passwd", "group"} <= set(etc("empty"))
    assert "passwd" not in etc("sub")  # this subpath is not empty
    mount = f"type=volume,src={volume},dst=/etc,volume-subpath=plain,volume-nocopy"
    listed = engine.docker("run", "--rm", "--network", "none", "--mount", mount, BUSYBOX, "ls", "/etc").out.split()
    assert "passwd" not in listed
