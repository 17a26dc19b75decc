"""`orlop cp`, `export`, `diff`, `commit`, `update`, `history` against orlopd, and `cp` compared with Docker's own client."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.engine import BUSYBOX, Engine, until

pytestmark = pytest.mark.root

SCRIPT = """mkdir -p /data/sub /empty; echo one >/data/one; ln -s one /data/link; ln -s sub /data/way; ln -s /data/sub /abs
ln /data/one /data/sub/hard; chmod 4750 /data/one; chown 5:6 /data/sub/hard; touch /ready; sleep 1000"""


@pytest.fixture
def box(engine: Engine, name: str) -> str:
    engine.ok("run", "-d", "--name", name, BUSYBOX, "sh", "-c", SCRIPT)
    until(lambda: engine.docker("exec", name, "test", "-e", "/ready").code == 0, "its files")
    return name


def listed(directory: Path) -> list[str]:
    """The entries below a directory: type, mode, name, link target, number of links."""
    found = []
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        link = f" -> {os.readlink(path)}" if path.is_symlink() else f" {info.st_nlink}" if path.is_file() else ""
        found.append(f"{stat.filemode(info.st_mode)} {path.relative_to(directory)}{link}")
    return found


OUT = [
    ("/data", "new"),
    ("/data", "new/"),
    ("/data/", "there"),
    ("/data/.", "there"),
    ("/data/.", "new"),
    ("/data", "file"),
    ("/data", "no/new"),
    ("/data/one", "new"),
    ("/data/one", "new/"),
    ("/data/one", "file"),
    ("/data/link", "new"),
    ("/data/way/", "there"),
    ("/abs/hard", "there"),
    ("data/one", "lead"),
    ("/data/one", "broken"),
    ("/nosuch", "there"),
    ("/data/sub", "there"),
]
FOLLOWED = [("/data/link", "new"), ("/data/way", "there"), ("/abs/", "new")]


def compared(engine: Engine, index: int, words: Callable[[str], list[str]]) -> None:
    """Run one cp with each client, each in its own directory: exit code and message must be the same."""
    seen = []
    for client in ("docker", "orlop"):
        given = words(client)
        done = getattr(engine, client)(*given)
        said = done.err.removeprefix("orlop: ").rstrip(".\n")
        seen.append((done.code, said.replace(f"/{client}/{index}", "")))
    assert seen[0] == seen[1], given


def test_orlop_cp_out_of_a_container_has_the_same_result_as_docker_cp(engine: Engine, box: str, tmp_path: Path) -> None:
    cases = [(["-q"], *case) for case in OUT] + [(["-q", "-L"], *case) for case in FOLLOWED]
    for index, (flags, source, target) in enumerate(cases):
        for client in ("docker", "orlop"):
            home = tmp_path / client / str(index)
            (home / "there/sub").mkdir(parents=True)
            (home / "there/sub/hard").write_text("before")
            (home / "file").write_text("before")
            (home / "lead").symlink_to("there")
            (home / "broken").symlink_to("made")
        compared(
            engine,
            index,
            lambda c, i=index, f=flags, s=source, t=target: ["cp", *f, f"{box}:{s}", f"{tmp_path}/{c}/{i}/{t}"],
        )
    assert listed(tmp_path / "orlop") == listed(tmp_path / "docker")


IN = [
    ("tree", ""),
    ("tree", "new"),
    ("tree/", "new/"),
    ("tree/.", ""),
    ("tree/.", "new"),
    ("tree", "no/new"),
    ("tree", "file"),
    ("tree/f", ""),
    ("tree/f", "new/"),
    ("tree/f", "file"),
    ("tree/f", "way"),
    ("tree/f", "link"),
    ("tree/l", ""),
    ("tree/way/", ""),
    ("tree/f/", ""),
    ("tree/d", "sub/f"),
    ("nosuch", ""),
]


def test_orlop_cp_into_a_container_has_the_same_result_as_docker_cp(engine: Engine, box: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "f").write_text("two")
    (tree / "f").chmod(0o640)
    (tree / "d/x").write_text("x")
    (tree / "l").symlink_to("f")
    (tree / "way").symlink_to("d")
    os.link(tree / "f", tree / "hard")
    os.mkfifo(tree / "pipe")
    each = "mkdir -p $h/sub/f; echo before >$h/file; ln -s file $h/link; ln -s sub $h/way"
    script = f"for c in docker orlop; do for i in $(seq 0 {len(IN) - 1}); do h=/w/$c/$i; {each}; done; done"
    engine.ok("exec", box, "sh", "-c", script)
    for index, (source, target) in enumerate(IN):
        compared(
            engine, index, lambda c, i=index, s=source, t=target: ["cp", "-q", f"{tmp_path}/{s}", f"{box}:/w/{c}/{i}/{t}"]
        )
    made = []
    for client in ("docker", "orlop"):
        data = engine.raw("GET", f"/containers/{box}/archive?path=/w/{client}/.")[1]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            made.append(sorted((m.name, m.type, m.mode, m.linkname, m.size, m.uid, m.gid) for m in tar))
    assert made[0] == made[1]
    engine.orlop("cp", "-L", f"{tree}/l", f"{box}:/w/followed", check=0)
    assert engine.ok("exec", box, "cat", "/w/followed") == "two"


def test_cp_of_an_archive_keeps_the_owners_of_its_files(engine: Engine, box: str, tmp_path: Path) -> None:
    out = engine.orlop("cp", f"{box}:/data", "-", check=0)
    with tarfile.open(fileobj=io.BytesIO(out.stdout)) as tar:
        owners = {member.name: (member.uid, member.gid) for member in tar}
    assert owners["data/one"] == (5, 6) and "data/sub/hard" in owners
    engine.orlop("cp", "-", f"{box}:/empty", stdin=out.stdout, check=0)
    assert engine.ok("exec", box, "stat", "-c", "%u:%g", "/empty/data/one") == "5:6"
    assert "must be a directory" in engine.orlop("cp", "-", f"{box}:/data/one", check=1).err
    (tmp_path / "mine").write_text("x")
    os.chown(tmp_path / "mine", 12, 34)
    engine.ok("run", "-d", "--name", f"{box}-u", "-u", "7:8", BUSYBOX, "sleep", "1000")
    for flags, owner in (([], "12:34"), (["-a"], "7:8")):
        engine.orlop("cp", *flags, f"{tmp_path}/mine", f"{box}-u:/tmp-{owner[0]}", check=0)
        assert engine.ok("exec", f"{box}-u", "stat", "-c", "%u:%g", f"/tmp-{owner[0]}") == owner
    said = engine.orlop("cp", "--quiet=false", f"{box}:/data/one", str(tmp_path), check=0)
    assert (said.out, said.err) == ("", f"Successfully copied 2.05kB to {tmp_path}\n")


def test_copy_of_a_sparse_file_stays_sparse(engine: Engine, box: str, tmp_path: Path) -> None:
    engine.ok("exec", box, "sh", "-c", "dd if=/dev/zero of=/holes bs=1 count=1 seek=1G 2>/dev/null; echo end >>/holes")
    engine.orlop("cp", f"{box}:/holes", str(tmp_path / "holes"), check=0)
    info = os.stat(tmp_path / "holes")
    assert info.st_size == (1 << 30) + 5 and info.st_blocks < 2048
    with open(tmp_path / "holes", "rb") as file:
        file.seek(-4, os.SEEK_END)
        assert file.read() == b"end\n"


def test_export_diff_commit_and_history_have_the_same_results_as_with_docker(
    engine: Engine, box: str, tmp_path: Path
) -> None:
    engine.orlop("export", "-o", str(tmp_path / "root.tar"), box, check=0)
    with tarfile.open(tmp_path / "root.tar") as tar:
        assert {"data/one", "bin/busybox"} <= set(tar.getnames())
    assert engine.orlop("export", box, check=0).stdout[257:262] == b"ustar"
    assert "No such container" in engine.orlop("export", "-o", str(tmp_path / "none"), "nosuch", check=1).err
    assert sorted(os.listdir(tmp_path)) == ["root.tar"]
    assert engine.orlop("diff", box, check=0).out == engine.docker("diff", box, check=0).out
    changes = ("-c", "ENV A=1", "-c", 'CMD ["cat","/data/one"]')
    image = engine.orlop("commit", "-a", "me", "-m", "why", *changes, box, f"files-{box}:1", check=0).line
    assert image.startswith("sha256:") and engine.ok("run", "--rm", f"files-{box}:1") == "one"
    found = json.loads(engine.ok("image", "inspect", image))[0]
    assert (found["Author"], found["Comment"], found["Config"]["Env"][-1]) == ("me", "why", "A=1")
    for flags in (["-q"], ["--format", "{{.Size}} {{.CreatedBy}} {{.Comment}}"], ["--human=false", "--no-trunc"]):
        assert engine.orlop("history", *flags, image, check=0).out == engine.docker("history", *flags, image, check=0).out
    assert engine.orlop("image", "history", "--platform", "linux/amd64", image).code in (0, 1)
    engine.ok("rmi", "-f", image)


def test_orlop_update_changes_limits_and_reports_missing_containers(engine: Engine, box: str) -> None:
    flags = ["-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "90", "--restart", "on-failure:3"]
    done = engine.orlop("update", *flags, box, "nosuch", check=1)
    assert done.out == f"{box}\n" and done.err == "orlop: Error response from daemon: No such container: nosuch\n"
    host = engine.inspect(box)["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (
        64 << 20,
        128 << 20,
        500_000_000,
        90,
    )
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert engine.orlop("container", "update", "--restart", "bogus", box).code == 1
