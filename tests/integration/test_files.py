"""docker cp, export, diff and commit with the real client, for running, stopped and hostile containers."""

import io
import json
import os
import shutil
import tarfile
import threading
import time

import pytest
from tests.integration.engine import BUSYBOX, patience

pytestmark = pytest.mark.root


def sleeper(engine, name, *options, script="sleep 1000"):
    engine.ok("run", "-d", "--name", name, *options, BUSYBOX, "sh", "-c", script)


def tar_of(data):
    return tarfile.open(fileobj=io.BytesIO(data))


def names(data):
    with tar_of(data) as tar:
        return sorted(tar.getnames())


@pytest.mark.parametrize("running", [True, False])
def test_cp_copies_directories_in_both_directions_with_owners_and_links(engine, name, tmp_path, running):
    script = (
        "mkdir -p /data/sub; echo one > /data/one; ln -s one /data/link; ln /data/one /data/sub/hard; chown 5:6 /data/one; "
    )
    sleeper(engine, name, script=script + "sleep 1000")
    engine.ok("exec", name, "sh", "-c", "until [ -e /data/sub/hard ]; do :; done; chmod 4750 /data/one")
    if not running:
        engine.ok("stop", "-t", "0", name)
    engine.ok("cp", "-a", f"{name}:/data", str(tmp_path / "out"))
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["link", "one", "sub"]
    assert ((out / "one").read_text(), os.lstat(out / "one").st_mode & 0o7777) == ("one\n", 0o4750)
    with tar_of(engine.docker("cp", f"{name}:/data/one", "-", check=0).stdout) as tar:
        assert [(member.name, member.uid, member.gid) for member in tar] == [("one", 5, 6)]
    assert os.readlink(out / "link") == "one" and (out / "sub/hard").read_text() == "one\n"
    engine.ok("cp", f"{name}:/data/link", str(tmp_path / "as-link"))
    assert os.path.islink(tmp_path / "as-link")
    engine.ok("cp", "-L", f"{name}:/data/link", str(tmp_path / "followed"))
    assert (tmp_path / "followed").read_text() == "one\n"
    (tmp_path / "new").mkdir()
    (tmp_path / "new/file").write_text("two")
    (tmp_path / "new/.wh.odd").write_text("no whiteout")
    engine.ok("cp", str(tmp_path / "new"), f"{name}:/data/sub")
    engine.ok("cp", str(tmp_path / "new/file"), f"{name}:/data/renamed")
    engine.ok("cp", "-", f"{name}:/data/sub", stdin=_tar({"from-stdin": b"three"}))
    if not running:
        engine.ok("start", name)
    listed = engine.ok("exec", name, "sh", "-c", "cd /data; cat sub/new/file sub/new/.wh.odd renamed sub/from-stdin")
    assert listed == "twono whiteouttwothree"
    gone = engine.docker("cp", f"{name}:/nosuch/thing", str(tmp_path))
    assert gone.code == 1 and f"Could not find the file /nosuch/thing in container {name}" in gone.err
    engine.ok("rm", "-f", name)


def _tar(files, **more):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_archive_requests_are_answered_as_by_dockerd(engine, name):
    sleeper(engine, name, script="mkdir /d; echo x > /d/f; ln -s /d/f /l; sleep 1000")
    engine.ok("exec", name, "sh", "-c", "until [ -e /l ]; do :; done")
    put = lambda path, body, query="": engine.api("PUT", f"/containers/{name}/archive?path={path}{query}", body)  # noqa: E731
    status, answer = put("/nosuch", _tar({"a": b"1"}))
    assert status == 404 and "Could not find the file /nosuch" in answer["message"]
    assert engine.api("PUT", f"/containers/{name}/archive", _tar({"a": b"1"}))[0] == 400
    assert put("/d", _tar({"given": b"1"}, uid=7, gid=8))[0] == 200
    assert engine.ok("exec", name, "stat", "-c", "%u:%g", "/d/given") == "7:8"
    assert engine.raw("HEAD", f"/containers/{name}/archive?path=/l")[0] == 200
    assert {"archive-path", "extract-to-dir"} & set(engine.events(container=name))
    engine.ok("rm", "-f", name)


def test_option_copy_uid_gid_makes_the_container_user_the_owner_of_copied_files(engine, name):
    sleeper(engine, name, "-u", "12:34")
    status, _ = engine.api("PUT", f"/containers/{name}/archive?path=/tmp&copyUIDGID=1", _tar({"mine": b"1"}, uid=7))
    if status == 404:
        status, _ = engine.api("PUT", f"/containers/{name}/archive?path=/&copyUIDGID=1", _tar({"tmp/mine": b"1"}, uid=7))
    assert status == 200 and engine.ok("exec", name, "stat", "-c", "%u:%g", "/tmp/mine") == "12:34"
    engine.ok("rm", "-f", name)


def test_cp_writes_to_volumes_but_not_to_read_only_root_file_systems(engine, name, tmp_path):
    engine.ok("volume", "create", f"v-{name}")
    sleeper(
        engine,
        name,
        "--read-only",
        "-v",
        f"v-{name}:/vol",
        "-v",
        f"v-{name}:/fixed:ro",
        script="echo in > /vol/f; sleep 1000",
    )
    engine.ok("exec", name, "sh", "-c", "until [ -e /vol/f ]; do :; done")
    engine.ok("cp", f"{name}:/vol/f", str(tmp_path / "f"))
    assert (tmp_path / "f").read_text() == "in\n"
    engine.ok("cp", str(tmp_path / "f"), f"{name}:/vol/g")
    assert engine.ok("exec", name, "cat", "/vol/g") == "in"
    refused = engine.docker("cp", str(tmp_path / "f"), f"{name}:/root-file")
    assert refused.code == 1 and "container rootfs is marked read-only" in refused.err
    refused = engine.docker("cp", str(tmp_path / "f"), f"{name}:/fixed/h")
    assert refused.code == 1 and "mounted volume is marked read-only" in refused.err
    engine.ok("rm", "-f", name)
    engine.ok("volume", "rm", f"v-{name}")


def test_cp_of_a_huge_sparse_file_stays_sparse(engine, name, tmp_path):
    sleeper(
        engine, name, script="dd if=/dev/zero of=/holes bs=1 count=1 seek=5G 2>/dev/null; echo end >> /holes; sleep 1000"
    )
    engine.ok("exec", name, "sh", "-c", 'until [ "$(tail -c 4 /holes 2>/dev/null)" = end ]; do :; done')
    began = time.monotonic()
    data = engine.raw("GET", f"/containers/{name}/archive?path=/holes")[1]
    assert len(data) < 1 << 20 and time.monotonic() - began < patience(10)
    with tar_of(data) as tar:
        (member,) = tar.getmembers()
        assert member.size == (5 << 30) + 5
    copy = tmp_path / "holes"
    if shutil.disk_usage(tmp_path).free > 8 << 30:  # Docker's client writes zeros instead of holes
        engine.ok("cp", f"{name}:/holes", str(copy))
        assert copy.stat().st_size == (5 << 30) + 5
        copy.unlink()
    engine.ok("rm", "-f", name)


def test_export_contains_the_root_file_system_without_files_of_volumes(engine, name):
    engine.ok("volume", "create", f"v-{name}")
    sleeper(engine, name, "-v", f"v-{name}:/vol", script="echo hidden > /vol/f; echo seen > /seen; sleep 1000")
    engine.ok("exec", name, "sh", "-c", "until [ -e /seen ]; do :; done")
    running = names(engine.docker("export", name, check=0).stdout)
    assert {"seen", "bin/busybox", ".dockerenv", "vol"} <= set(running) and "vol/f" not in running
    engine.ok("stop", "-t", "0", name)
    assert names(engine.docker("export", name, check=0).stdout) == running
    engine.ok("rm", "-f", name)
    engine.ok("volume", "rm", f"v-{name}")


def test_diff_lists_changes(engine, name):
    engine.ok("run", "--name", name, BUSYBOX, "sh", "-c", "mkdir /new; echo x > /new/file; rm /bin/sh; echo y >> /bin/ls")
    lines = engine.ok("diff", name).splitlines()
    assert lines == ["C /bin", "C /bin/ls", "D /bin/sh", "A /new", "A /new/file"]
    engine.ok("rm", name)
    engine.ok("create", "--name", name, BUSYBOX, "true")
    assert engine.api("GET", f"/containers/{name}/changes") == (200, None)
    engine.ok("rm", name)


def test_commit_makes_an_image_with_the_changes_of_the_container(engine, name):
    script = "mkdir /new; echo x > /new/file; ln /new/file /new/hard; rm /bin/vi; chmod 700 /bin/ls"
    engine.ok("run", "--name", name, "-e", "OF=container", "-l", "kept=1", BUSYBOX, "sh", "-c", script)
    changes = ("-c", "ENV ADDED=1", "-c", 'CMD ["cat","/new/file"]', "-c", "EXPOSE 80")
    image = engine.ok("commit", "-a", "me", "-m", "why", *changes, name, f"commit-{name}:v1")
    assert image.startswith("sha256:")
    found = json.loads(engine.ok("image", "inspect", f"commit-{name}:v1"))[0]
    assert (found["Id"], found["Author"], found["Comment"]) == (image, "me", "why")
    config = found["Config"]
    assert {"OF=container", "ADDED=1"} <= set(config["Env"]) and config["Labels"]["kept"] == "1"
    assert config["Cmd"] == ["cat", "/new/file"] and "80/tcp" in config["ExposedPorts"]
    assert engine.ok("run", "--rm", f"commit-{name}:v1") == "x"
    check = "stat -c %h:%a /new/file /bin/ls; test -e /bin/vi || echo gone; test -s /etc/hosts && echo own"
    assert engine.ok("run", "--rm", f"commit-{name}:v1", "sh", "-c", check).split() == ["2:644", "1:700", "gone", "own"]
    history = engine.ok("history", "--format", "{{.CreatedBy}}|{{.Comment}}", "--no-trunc", f"commit-{name}:v1").splitlines()
    assert history[0] == f"sh -c {script}|why"
    again = engine.ok("commit", name)  # untagged
    engine.ok("rm", name)
    engine.ok("rmi", f"commit-{name}:v1", again)


def test_commit_pauses_and_resumes_the_container(engine, name):
    sleeper(engine, name, script="while :; do echo x >> /growing; done")
    image = engine.ok("commit", name)
    assert engine.state(name) == "running"
    seen = [action for action in engine.events(container=name) if action in ("pause", "unpause", "commit")]
    assert seen == ["pause", "commit", "unpause"]
    engine.ok("pause", name)
    second = engine.ok("commit", name)
    assert engine.state(name) == "paused"
    engine.ok("rm", "-f", name)
    engine.ok("rmi", "-f", image, second)
    assert engine.api("POST", "/commit?container=nosuch")[0] == 404
    assert engine.api("POST", "/commit")[0] == 400


def test_changing_links_of_a_container_never_lead_cp_to_files_of_the_host(engine, name, tmp_path):
    """The container replaces a directory by a link to the host's root, in a loop, while files are copied in and out."""
    (tmp_path / "secret").write_text("of the host")
    outside = tmp_path / "secret"
    swap = f"mkdir -p /a /b{tmp_path}; while :; do ln -sfn {tmp_path} /x; rm -f /x; mv /a /x; mv /x /a; done"
    sleeper(engine, name, script=swap)
    stop = time.monotonic() + 4
    taken = []

    def put():
        while time.monotonic() < stop:
            engine.api("PUT", f"/containers/{name}/archive?path=/x", _tar({"secret": b"overwritten", "planted": b"1"}))

    thread = threading.Thread(target=put)
    thread.start()
    while time.monotonic() < stop:
        status, data, _ = engine.raw("GET", f"/containers/{name}/archive?path=/x/secret")
        taken.append(data if status == 200 else b"")
    thread.join()
    assert outside.read_text() == "of the host" and os.listdir(tmp_path) == ["secret"]
    assert not any(b"of the host" in data for data in taken) and len(taken) > 5
    engine.ok("rm", "-f", name)
