"""Mounts: visible and writable files in the container, ownership, and removal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.integration.engine import Engine, Result, until

pytestmark = pytest.mark.root


@contextmanager
def mounted(path: Path, *, shared: bool = False) -> Iterator[None]:
    """A tmpfs of the host."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    try:
        subprocess.run(["mount", "--make-shared" if shared else "--make-private", path], check=True)
        yield
    finally:
        subprocess.run(["umount", "-R", "-l", path], check=False)


def _run(engine: Engine, mounts: list[str], script: str, *flags: str) -> Result:
    words = [word for mount in mounts for word in ("--mount", mount)]
    return engine.docker("run", "--rm", "--network", "none", *flags, *words, "busybox", "sh", "-c", script)


def test_mounts_below_a_read_only_bind_mount_are_read_only_by_default(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    script = "touch /x/a 2>/dev/null && echo top; touch /x/sub/a 2>/dev/null && echo below; ls -d /x/sub/mark 2>/dev/null"
    with mounted(tmp_path / "sub"):
        (tmp_path / "sub/mark").touch()
        bind = f"type=bind,src={tmp_path},dst=/x"
        assert _run(engine, [bind], script).out.split() == ["top", "below", "/x/sub/mark"]
        assert _run(engine, [f"{bind},ro"], script).out.split() == ["/x/sub/mark"]
        assert _run(engine, [], script, "-v", f"{tmp_path}:/x:ro").out.split() == ["/x/sub/mark"]
        assert _run(engine, [f"{bind},ro,bind-recursive=writable"], script).out.split() == ["below", "/x/sub/mark"]
        force = f"{bind},ro,bind-recursive=readonly,bind-propagation=rprivate"
        assert _run(engine, [force], script).out.split() == ["/x/sub/mark"]
        assert _run(engine, [f"{bind},bind-recursive=disabled"], script).out.split() == ["top", "below"]  # writable below
        old = {"Type": "bind", "Source": str(tmp_path), "Target": "/x", "ReadOnly": True}
        for given in ({"Mounts": [old]}, {"Binds": [f"{tmp_path}:/x:ro"]}):
            body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {**given, "NetworkMode": "none"}}
            for version, seen in (("v1.43", ["below", "/x/sub/mark"]), ("v1.44", ["/x/sub/mark"])):
                made = engine.api("POST", f"/{version}/containers/create", body)[1]["Id"]
                assert engine.ok("start", "-a", made).split() == seen


def test_propagation_of_a_bind_mount_decides_which_later_mounts_are_visible(
    engine: Engine, name: str, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    with mounted(top, shared=True):
        (top / "late").mkdir()
        for word, sees in (("rslave", True), ("rshared", True), ("rprivate", False)):
            engine.ok("run", "-d", "--name", f"{name}-{word}", "-v", f"{top}:/x:{word}", "busybox", "sleep", "600")
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", top / "late"], check=True)
            (top / "late/mark").touch()
            assert (engine.docker("exec", f"{name}-{word}", "ls", "/x/late/mark").code == 0) is sees
            subprocess.run(["umount", top / "late"], check=True)
            assert engine.docker("exec", f"{name}-{word}", "ls", "/x/late/mark").code != 0
        engine.ok(
            "run", "--rm", "--privileged", "-v", f"{top}:/x:rshared", "busybox", "mount", "-t", "tmpfs", "t", "/x/late"
        )
        assert os.path.ismount(top / "late")  # a mount made in the container appears on the host, and remains
        engine.ok("rm", "-f", *(f"{name}-{word}" for word in ("rslave", "rshared", "rprivate")))
    with mounted(top):
        for word, text in (("rshared", "is not a shared mount"), ("slave", "is not a shared or slave mount")):
            result = engine.docker("run", "--rm", "-v", f"{top}:/x:{word}", "busybox", "true")
            assert result.code == 125 and f"path {top} is mounted on {top} but it {text}" in result.err


def test_missing_source_of_a_bind_mount_is_created_or_refused_as_requested(engine: Engine, tmp_path: Path) -> None:
    assert _run(engine, [], "ls -A /x", "-v", f"{tmp_path}/made/by:/x").out == ""
    assert (tmp_path / "made/by").is_dir() and os.stat(tmp_path / "made/by").st_mode & 0o777 == 0o755
    result = _run(engine, [f"type=bind,src={tmp_path}/none,dst=/x"], "true")
    assert result.code == 125 and f"bind source path does not exist: {tmp_path}/none" in result.err
    mount = {"Type": "bind", "Source": f"{tmp_path}/asked", "Target": "/x", "BindOptions": {"CreateMountpoint": True}}
    status, _ = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": {"Mounts": [mount]}})
    assert status == 201 and (tmp_path / "asked").is_dir()


def test_file_can_be_mounted_only_on_a_file_and_a_directory_only_on_a_directory(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    assert _run(engine, [], "cat /new/place", "-v", f"{tmp_path}/file:/new/place:ro").out == "from the host\n"
    assert "not a directory" in _run(engine, [], "true", "-v", f"{tmp_path}/file:/etc").err
    assert "not a directory" in _run(engine, [], "true", "-v", f"{tmp_path}:/etc/passwd").err


def test_images_can_be_mounted(engine: Engine, name: str) -> None:
    engine.ok(
        "run", "--name", f"maker-{name}", "busybox", "sh", "-c", "mkdir /data; echo in the image >/data/f; ln -s / /data/up"
    )
    engine.ok("commit", f"maker-{name}", f"other-{name}")
    engine.ok("rm", f"maker-{name}")

    def mount(target: str, subpath: str = "") -> dict[str, object]:
        options = {"ImageOptions": {"Subpath": subpath}} if subpath else {}
        return {"Type": "image", "Source": f"other-{name}", "Target": target, **options}

    places = [mount("/whole"), mount("/part", "data"), mount("/file", "data/f")]
    script = "cat /whole/data/f /part/f /file; touch /part/x /whole/x; test -e /data || echo not here"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"Mounts": places}}
    made = engine.api("POST", f"/containers/create?name={name}", body)[1]["Id"]
    result = engine.docker("start", "-a", name)
    assert result.out.splitlines() == ["in the image"] * 3 + ["not here"]
    assert result.err.count("Read-only file system") == 2
    shown = engine.inspect(name)["Mounts"]
    assert {(item["Type"], item["RW"], item["Source"]) for item in shown} == {("image", False, f"other-{name}")}
    for place, content in (("/whole/data/f", True), ("/part/f", True), ("/file", True), ("/part/up", False)):
        copied = engine.docker("cp", "-L" if content else "-q", f"{name}:{place}", "-", check=0)
        assert (b"in the image" in copied.stdout) == content
    outside = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": [mount("/root2", "data/up")]}}
    assert engine.api("POST", f"/containers/create?name=out-{name}", outside)[0] == 201
    assert "cannot access path data/up: it leads outside of the mount source" in engine.docker("start", f"out-{name}").err
    assert engine.raw("HEAD", f"/containers/out-{name}/archive?path=/root2/etc")[0] == 404
    engine.ok("rm", f"out-{name}")
    used = engine.docker("rmi", f"other-{name}")
    assert used.code == 1 and f"container {made[:12]} is using" in used.err
    engine.ok("rmi", "-f", f"other-{name}")
    gone = engine.docker("start", "-a", name)
    assert gone.code == 1 and f"No such image: other-{name}" in gone.err
    engine.ok("rm", name)
    for bad, text in (
        ({"Source": "no-such-image"}, "No such image: no-such-image"),
        ({"Source": ""}, "field Source must not be empty"),
    ):
        body = {"Image": "busybox", "HostConfig": {"Mounts": [{**mount("/x"), **bad}]}}
        status, answer = engine.api("POST", "/containers/create", body)
        assert status == 400 and text in answer["message"]


def test_options_of_a_tmpfs_are_applied(engine: Engine) -> None:
    mount = {
        "Type": "tmpfs",
        "Target": "/t",
        "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o700, "Options": [["exec"], ["uid", "9"]]},
    }
    body = {"Image": "busybox", "Cmd": ["grep", " /t ", "/proc/mounts"], "HostConfig": {"Mounts": [mount]}}
    made = engine.api("POST", "/containers/create", body)[1]["Id"]
    words = set(engine.ok("start", "-a", made).split()[3].split(","))
    assert {"rw", "nosuid", "nodev", "size=1024k", "mode=700", "uid=9"} <= words and "noexec" not in words
    result = engine.docker("run", "--rm", "--tmpfs", "/t:lowerdir=/", "busybox", "true")
    assert result.code == 125 and 'invalid tmpfs option "lowerdir"' in result.err


def _volumes(engine: Engine) -> set[str]:
    return set(engine.docker("volume", "ls", "-q").out.split())


def test_volumes_are_created_shared_and_removed_as_in_docker(engine: Engine, name: str) -> None:
    before = _volumes(engine)
    engine.ok(
        "run",
        "--name",
        name,
        "-v",
        f"named-{name}:/n",
        "-v",
        "/anonymous",
        "busybox",
        "sh",
        "-c",
        "echo 1 >/n/f; echo 2 >/anonymous/f",
    )
    engine.ok("run", "--name", f"{name}-heir", "--volumes-from", f"{name}:ro", "busybox", "true")
    script = "cat /n/f /anonymous/f; touch /n/x /anonymous/x"
    result = engine.docker("run", "--rm", "--volumes-from", f"{name}:ro", "busybox", "sh", "-c", script)
    assert result.out == "1\n2\n" and result.err.count("Read-only file system") == 2
    assert engine.docker("run", "--rm", "--volumes-from", name, "busybox", "sh", "-c", script).code == 0
    assert len(_volumes(engine) - before) == 2  # --rm keeps volumes of other containers
    engine.ok("rm", "-v", name)
    assert len(_volumes(engine) - before) == 2  # rm -v also keeps volumes of other containers
    engine.ok("rm", "-v", f"{name}-heir")
    assert _volumes(engine) - before == {f"named-{name}"}
    engine.ok("run", "--rm", "-v", "/anonymous", "-v", f"named-{name}:/n", "busybox", "true")
    until(lambda: _volumes(engine) - before == {f"named-{name}"}, "--rm takes the anonymous one along")
    engine.ok("create", "--name", name, "-v", "/anonymous", "busybox")
    engine.ok("rm", name)
    assert len(_volumes(engine) - before) == 2  # kept without -v
    engine.ok("volume", "rm", *(_volumes(engine) - before))
    for bad, text in (
        ("no-such", "No such container"),
        (f"{name}:fly", "invalid mode"),
        (":ro", "cannot be an empty string"),
    ):
        result = engine.docker("create", "--volumes-from", bad, "busybox")
        assert result.code == 1 and text in result.err


def test_new_volume_gets_the_content_and_owner_of_its_path_in_the_image(engine: Engine, name: str) -> None:
    engine.ok(
        "run",
        "--name",
        f"m-{name}",
        "busybox",
        "sh",
        "-c",
        "mkdir -m 750 /d; chown 5:6 /d; touch /d/f; ln -s f /d/l; mknod /d/p p",
    )
    engine.ok("commit", f"m-{name}", f"filled-{name}")
    run = ["run", "--rm", "--network", "none"]
    listing = engine.ok(
        *run, "-v", f"v-{name}:/d", f"filled-{name}", "stat", "-c", "%n %u:%g %a %F", "/d", "/d/f", "/d/l", "/d/p"
    )
    assert listing.splitlines() == [
        "/d 5:6 750 directory",
        "/d/f 0:0 644 regular empty file",
        "/d/l 0:0 777 symbolic link",
        "/d/p 0:0 644 fifo",
    ]
    assert (
        engine.ok(*run, "--mount", f"type=volume,src=n-{name},dst=/d,volume-nocopy", f"filled-{name}", "ls", "-A", "/d")
        == ""
    )
    ro = engine.docker(*run, "--mount", f"type=volume,src=v-{name},dst=/d,ro", "busybox", "touch", "/d/x")
    assert "Read-only file system" in ro.err
    clash = engine.docker("create", "-v", f"c-{name}:/etc/passwd", "busybox")
    assert clash.code == 1 and "cannot mount volume over existing file" in clash.err
    engine.ok("rm", f"m-{name}")
    engine.ok("volume", "rm", f"v-{name}", f"n-{name}", *(_volumes(engine) & {f"c-{name}"}))
