"""Builds one Dockerfile with two engines, and reduces the images to what must be equal: configuration, history, and the
files of each layer with types, modes, owners, links, attributes and content; times where the Dockerfile defines them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CASES", "Case", "context", "outcome"]

OLD = 1_000_000_000  # the time of the files of contexts
STUBS = ("dev", "etc", "proc", "sys")
"""dockerd leaves directories in layers that its mounts have made or touched. Ours have those that the step changed."""
Entry = str | bytes | tuple[Any, ...]


class Case:
    """`files` are those of the context: text, bytes, or ("mode", mode, text), ("link", target), ("dir", mode),
    ("tar", {name: text}), ("hard", path), ("fifo",)."""

    def __init__(self, text: str, files: Mapping[str, Entry] | None = None, *options: str, fails: bool = False) -> None:
        self.text, self.files, self.options, self.fails = text, files or {}, options, fails


def _tar(members: Mapping[str, str], compression: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as made:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.gid, info.mode = len(text), OLD + 7, 3, 4, 0o640
            made.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def context(directory: Path, case: Case) -> None:
    directory.mkdir(parents=True)
    for name, entry in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, str | bytes):
            path.write_bytes(entry.encode() if isinstance(entry, str) else entry)
            path.chmod(0o644)
            continue
        kind, *rest = entry
        if kind == "mode":
            path.write_text(rest[1])
            path.chmod(rest[0])
        elif kind == "link":
            path.symlink_to(rest[0])
        elif kind == "dir":
            path.mkdir(exist_ok=True)
            path.chmod(rest[0])
        elif kind == "tar":
            path.write_bytes(_tar(*rest))
        elif kind == "hard":
            path.hardlink_to(directory / rest[0])
        else:
            os.mkfifo(path)
    for path in sorted(directory.rglob("*"), reverse=True):
        os.utime(path, (OLD, OLD), follow_symlinks=False)
    (directory / "Dockerfile").write_text(case.text)


def docker(socket: str, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    env = {
        **os.environ,
        "DOCKER_HOST": f"unix://{socket}",
        "DOCKER_CONFIG": f"{socket}.client",  # beside the socket, so it goes with the engine
        "BUILDX_NO_DEFAULT_ATTESTATIONS": "1",
    }
    env.pop("DOCKER_BUILDKIT", None)
    return subprocess.run(["docker", *words], capture_output=True, env=env, timeout=120, check=False, **options)


def outcome(socket: str, directory: Path, case: Case, name: str) -> Any:
    """What a build gives. A failure is reduced to the last line of its message."""
    begun = time.time()
    done = docker(socket, "build", "--progress=plain", "-t", name, *case.options, str(directory))
    if done.returncode:
        return ("failed", _message(done.stderr.decode()))
    saved = docker(socket, "save", name)
    assert saved.returncode == 0, saved.stderr
    docker(socket, "rmi", "-f", name)
    return _image(saved.stdout, begun)


def _message(text: str) -> str:
    line = next((line for line in reversed(text.splitlines()) if line.startswith("ERROR")), text)
    line = text[text.rindex(line) :].strip() if line in text else line
    line = re.sub(r"ref \S+:", "ref REF:", line)
    line = re.sub(r"/\S*/overlay2/\w+/merged", "", line)
    return re.sub(r"sha256:[0-9a-f]{64}", "sha256:...", line)


def _image(archive: bytes, begun: float) -> Any:
    with tarfile.open(fileobj=io.BytesIO(archive)) as saved:
        (manifest,) = json.load(saved.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(saved.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        layers = []
        for name in manifest["Layers"]:
            content = saved.extractfile(saved.getmember(name))
            assert content is not None
            layers.append(_layer(content.read(), begun))
    assert config.pop("created") and len(config["rootfs"].pop("diff_ids")) == len(layers)
    for entry in config["history"]:
        entry.pop("created")
    return {"config": config, "layers": layers[1:]}


def _layer(data: bytes, begun: float) -> dict[str, Any]:
    with tarfile.open(fileobj=io.BytesIO(data)) as layer:
        found: dict[str, Any] = {}
        for entry in layer:
            if entry.name.rstrip("/") in STUBS and entry.isdir():
                continue
            if os.path.basename(entry.name).startswith(".wh."):
                found[entry.name] = "deleted"
                continue
            reader = layer.extractfile(entry) if entry.isreg() else None
            content = hashlib.sha256(reader.read()).hexdigest()[:12] if reader else ""
            xattrs = {k: v for k, v in entry.pax_headers.items() if k.startswith("SCHILY.xattr.")}
            # Times of directories differ between two builds by one dockerd: its client's files come in any order
            at = "" if entry.isdir() else entry.mtime if entry.mtime < begun - 3600 else "now"
            found[entry.name.rstrip("/")] = (
                entry.type.decode(),
                oct(entry.mode),
                (entry.uid, entry.gid),
                entry.linkname,
                content,
                at,
                xattrs,
            )
        return found


_TREE: dict[str, Entry] = {
    "dir/a.txt": "a",
    "dir/sub/b.txt": ("mode", 0o600, "b"),
    "dir/sub/run.sh": ("mode", 0o4755, "#!/bin/sh\n"),
    "dir/link": ("link", "sub/b.txt"),
    "dir/out": ("link", "/etc/passwd"),
    "dir/empty": ("dir", 0o700),
    "top.md": "top",
    "two.txt": "two",
    "a b.txt": "space",
}

CASES: dict[str, Case] = {
    "run": Case("FROM busybox\nRUN echo hello > /hello\nRUN mkdir -p /a/b && chmod 700 /a && rm /hello\n"),
    "run-exec": Case('FROM busybox\nRUN ["touch", "/made"]\n'),
    "run-shell": Case('FROM busybox\nSHELL ["/bin/sh", "-ec"]\nRUN false || true; touch /x\n'),
    "run-fails": Case("FROM busybox\nRUN exit 3\n", fails=True),
    "run-user": Case(
        "FROM busybox\nRUN chmod 777 /tmp || mkdir -m 777 /tmp\nUSER 5:6\nRUN id -u > /tmp/u; id -g > /tmp/g\n"
    ),
    "run-env": Case("FROM busybox\nARG A=1\nENV B=${A}2\nRUN echo $A $B > /env\n"),
    "run-heredoc": Case("FROM busybox\nRUN <<EOF\necho one > /one\necho two > /two\nEOF\n"),
    "run-cache-mount": Case("FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x && touch /done\n"),
    "run-tmpfs": Case("FROM busybox\nRUN --mount=type=tmpfs,target=/t touch /t/x && touch /done\n"),
    "run-bind": Case("FROM busybox\nRUN --mount=type=bind,target=/src cp /src/top.md /copied\n", _TREE),
    "run-bind-stage": Case(
        "FROM busybox AS s\nRUN mkdir /d && echo x > /d/f\nFROM busybox\nRUN --mount=from=s,source=/d,target=/m cp /m/f /f\n"
    ),
    "run-bind-write": Case("FROM busybox\nRUN --mount=type=bind,target=/src,rw touch /src/new && touch /done\n", _TREE),
    "run-replaced": Case("FROM busybox\nRUN mkdir -p /v/w && touch /v/w/x\nRUN rm -r /v && touch /v\n"),
    "run-device": Case("FROM busybox\nRUN mknod /dev0 c 1 3; mkfifo /fifo; ln -s /nowhere /link; ln /fifo /fifo2\n"),
    "run-hosts": Case("FROM busybox\nRUN grep -c 10.1.2.3 /etc/hosts > /n\n", {}, "--add-host", "h:10.1.2.3"),
    "run-network-none": Case("FROM busybox\nRUN --network=none ls /sys/class/net > /net\n"),
    "workdir": Case("FROM busybox\nWORKDIR /a/b\nRUN touch c\nWORKDIR d\nRUN pwd > /pwd\n"),
    "workdir-user": Case("FROM busybox\nUSER 7\nWORKDIR /home/seven\nRUN stat -c %u:%g . > /tmp/o || true\n"),
    "copy-file": Case("FROM busybox\nCOPY top.md /\nCOPY top.md /x/y/\nCOPY top.md /z/renamed\n", _TREE),
    "copy-dir": Case("FROM busybox\nCOPY dir /d\nCOPY dir/ /e/\n", _TREE),
    "copy-dir-over": Case(
        "FROM busybox\nRUN mkdir -m 711 -p /d/sub && chmod 711 /d && touch /d/a.txt\nCOPY dir /d\n", _TREE
    ),
    "copy-all": Case("FROM busybox\nCOPY . /all\n", {**_TREE, ".dockerignore": "*.md\ndir/sub\n!dir/sub/b.txt\n"}),
    "copy-several": Case("FROM busybox\nCOPY top.md two.txt dir /s/\n", _TREE),
    "copy-wildcard": Case("FROM busybox\nCOPY *.t?t dir/s* /w/\n", _TREE),
    "copy-json": Case('FROM busybox\nCOPY ["a b.txt", "/c d/"]\n', _TREE),
    "copy-missing": Case("FROM busybox\nCOPY none.txt /\n", _TREE, fails=True),
    "copy-wildcard-missing": Case("FROM busybox\nCOPY none*.txt top.md /n/\n", _TREE),
    "copy-chown": Case("FROM busybox\nCOPY --chown=12:34 dir /d\nCOPY --chown=55 top.md /one/two/\n", _TREE),
    "copy-chown-name": Case(
        "FROM busybox\nRUN mkdir -p /etc; echo me:x:77:88::/:/bin/sh > /etc/passwd; echo us:x:99: > /etc/group\n"
        "COPY --chown=me top.md /a\nCOPY --chown=me:us top.md /b\nCOPY --chown=:us top.md /c\n",
        _TREE,
    ),
    "copy-chown-no-passwd": Case("FROM busybox\nCOPY --chown=nobodyhere top.md /a\n", _TREE),
    "copy-chown-unknown": Case(
        "FROM busybox\nRUN mkdir -p /etc; echo me:x:77:88::/:/bin/sh > /etc/passwd\nCOPY --chown=nobodyhere top.md /a\n",
        _TREE,
    ),
    "copy-chmod": Case("FROM busybox\nCOPY --chmod=751 dir /d\nCOPY --chmod=0640 top.md /t\n", _TREE),
    "copy-link": Case("FROM busybox\nCOPY --link top.md /l/t\nCOPY --link dir /l/d/\n", _TREE),
    "copy-over-link": Case(
        "FROM busybox\nRUN mkdir /real && ln -s real /via && ln -s nowhere /t\nCOPY top.md /via/\nCOPY two.txt /t\n", _TREE
    ),
    "copy-dir-over-link": Case(
        "FROM busybox\nRUN mkdir /real && ln -s /real /via\nCOPY dir /via\nCOPY dir /via/new\n", _TREE
    ),
    "copy-link-source": Case("FROM busybox\nCOPY dir/link /followed\nCOPY dir/link /in/\n", _TREE),
    "copy-file-over-dir": Case("FROM busybox\nRUN mkdir -p /d/top.md\nCOPY top.md /d/\n", _TREE, fails=True),
    "copy-dir-over-file": Case("FROM busybox\nRUN touch /f\nCOPY dir /f\n", _TREE, fails=True),
    "copy-hard": Case("FROM busybox\nCOPY d /d\n", {"d/a": "one", "d/b": ("hard", "d/a")}),
    "copy-from-stage": Case(
        "FROM busybox AS s\nRUN mkdir /o && echo 1 > /o/f && chown 5:6 /o/f && chmod 2755 /o\n"
        "RUN ln /o/f /o/g && ln -s f /o/l\n"
        "FROM busybox\nCOPY --from=s /o /copied\nCOPY --from=0 /o/f /single\nCOPY --from=s /o/l /l\n"
    ),
    "copy-from-image": Case("FROM scratch\nCOPY --from=busybox /bin/busybox /b\n"),
    "copy-heredoc": Case("FROM busybox\nCOPY <<EOF /h/file\nhello\nEOF\nCOPY --chmod=700 <<one <<two /h/\n1\none\n2\ntwo\n"),
    "add-tar": Case(
        "FROM busybox\nADD a.tar /t/\nADD b.tgz /u\n",
        {"a.tar": ("tar", {"x/y": "1", "z": "2"}), "b.tgz": ("tar", {"q": "3"}, "gz")},
    ),
    "add-not-tar": Case("FROM busybox\nADD x.tar y.gz /t/\n", {"x.tar": "no tar", "y.gz": b"\x1f\x8b\x08nothing"}),
    "add-file": Case("FROM busybox\nADD top.md dir /a/\n", _TREE),
    "scratch": Case("FROM scratch\nCOPY dir /\n", _TREE),
    "metadata": Case(
        'FROM busybox\nLABEL a=1 b="x y"\nEXPOSE 80 81/udp\nVOLUME /v /w\nUSER me\n'
        'ENTRYPOINT ["/x"]\nCMD ["a", "b"]\nSTOPSIGNAL 9\n'
        "ONBUILD RUN true\nMAINTAINER me\n"
    ),
    "metadata-only": Case("FROM busybox\nENV A=b\nCMD sh\n"),
    "target": Case("FROM busybox AS one\nRUN touch /one\nFROM busybox AS two\nRUN touch /two\n", {}, "--target", "one"),
    "stage-base": Case("FROM busybox AS a\nENV X=1\nRUN touch /a\nFROM a\nRUN echo $X > /b\n"),
    "copy-parents-dir": Case("FROM busybox\nCOPY dir/sub/b.txt /deep/er/place/b\n", _TREE),
    "copy-dot": Case("FROM busybox\nWORKDIR /w\nCOPY . .\nCOPY top.md .\nCOPY dir ./d/\n", _TREE),
    "copy-rename-in": Case("FROM busybox\nRUN mkdir /x\nCOPY top.md /x\nCOPY dir /x\n", _TREE),
    "copy-twice": Case("FROM busybox\nCOPY dir /d\nCOPY --chmod=600 top.md /d/a.txt\nCOPY dir/a.txt /d/\n", _TREE),
    "copy-special-of-stage": Case(
        "FROM busybox AS s\nRUN mkdir /o; mkfifo -m 640 /o/p; mknod /o/n c 1 3\nFROM busybox\nCOPY --from=s /o /o\n"
    ),
    "copy-mode-of-stage": Case(
        "FROM busybox AS s\nRUN touch /f && chmod 4711 /f && chown 3:4 /f\nFROM busybox\nCOPY --from=s /f /g\n"
    ),
    "copy-chown-stage": Case(
        "FROM busybox AS s\nRUN mkdir -p /o/p && touch /o/p/q\nFROM busybox\nCOPY --from=s --chown=9:8 /o/ /n/\n"
    ),
    "run-args-stages": Case("ARG V=7\nFROM busybox AS one\nFROM one\nARG W=${V}8\nRUN echo $V $W > /v\n"),
    "run-fails-heredoc": Case("FROM busybox\nRUN <<EOF\nset -e\nfalse\nEOF\n", fails=True),
    "run-no-such-command": Case('FROM busybox\nRUN ["/none"]\n', fails=True),
    "run-cd": Case("FROM busybox\nWORKDIR /one\nWORKDIR two\nRUN touch here ../there\n"),
    "run-changes": Case("FROM busybox\nRUN mkdir /q && touch /q/1\nRUN rm /q/1\nRUN touch /q/1\n"),
    "user-group": Case("FROM busybox\nRUN mkdir -p /tmp && chmod 1777 /tmp\nUSER 3:4\nRUN id -u > /tmp/id\n"),
    "onbuild": Case("FROM busybox AS b\nONBUILD RUN touch /onbuild\nFROM b\nRUN touch /after\n"),
    "secret-missing": Case("FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n", fails=True),
    "secret-optional": Case("FROM busybox\nRUN --mount=type=secret,id=none ls /run > /ls 2>&1; true\n"),
    "shm": Case("FROM busybox\nRUN grep /dev/shm /proc/mounts | grep -o size=[0-9k]* > /shm\n", {}, "--shm-size", "32m"),
    "ulimit": Case("FROM busybox\nRUN ulimit -n > /n\n", {}, "--ulimit", "nofile=321:321"),
    "labels-option": Case("FROM busybox\nLABEL a=1\n", {}, "--label", "b=2", "--label", "a=3"),
}
