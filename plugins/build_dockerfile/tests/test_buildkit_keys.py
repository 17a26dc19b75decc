"""BuildKit's keys of steps. The expected digests are those in a cache that dockerd 26.1 (BuildKit 0.13) has exported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.remote.buildkit import (
    CacheGraph,
    CacheRecord,
    Needs,
    Selector,
    content_key,
    image_keys,
    root_key,
    step_keys,
)
from orlop_build_dockerfile.remote.contents import content_digest
from orlop_build_dockerfile.solver.definition import Vertex

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ROOT = "sha256:8a5edab282632443219e051e4ade2d1d5bbc671c781051bf1437897cbdfea0f1"  # digest of the selector "/"
TWICE = "sha256:9f2e3049a12e5f4b5788b35222d45494a0bc6b6d506ed9f519e384c7ab18f784"  # digest of the selectors "/" and "/"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep


def vertex(op: ops_pb2.Op, inputs: int = 1) -> Vertex:
    return Vertex("sha256:x", op, "", tuple((f"sha256:{number}", 0) for number in range(inputs)))


def run(script: str, *env: str, **more: object) -> Vertex:
    meta = ops_pb2.Meta(args=["/bin/sh", "-c", script], env=[PATH, *env], cwd="/", removeMountStubsRecursive=True)
    for name, value in more.items():
        getattr(meta, name).CopyFrom(value)
    platform = ops_pb2.Platform(OS="linux", Architecture="amd64")
    mounts = [ops_pb2.Mount(input=0, dest="/", output=0)]
    return vertex(ops_pb2.Op(exec=ops_pb2.ExecOp(meta=meta, mounts=mounts), platform=platform))


def copy(*sources: str, dest: str) -> Vertex:
    op = ops_pb2.FileOp()
    for number, source in enumerate(sources):
        last = number == len(sources) - 1
        action = op.actions.add(input=number and number + 1, secondaryInput=1, output=0 if last else -1)
        action.copy.CopyFrom(
            ops_pb2.FileActionCopy(
                src=source,
                dest=dest,
                mode=-1,
                followSymlink=True,
                dirCopyContents=True,
                createDestPath=True,
                allowWildcard=True,
                allowEmptyWildcard=True,
                timestamp=-1,
            )
        )
    return vertex(ops_pb2.Op(file=op), 2)


def key(found: Vertex) -> tuple[str, tuple[Needs, ...]]:
    (made,) = step_keys(found, "linux/amd64")
    return root_key(made.digest, 0), made.inputs


def test_keys_of_commands() -> None:
    assert key(run("echo built > /out")) == (
        "sha256:50bccc3b80e03174eaa66365521816a559aa2a14f7db47133ccfdc24d7775a45",
        (Needs(ROOT),),
    )
    changed = key(run("echo made > /made", "A=b"))
    assert changed[0] == "sha256:668ce9f9ea2e21eec2ffb099b5faa748802239425da845ae678d967f22ab6176"
    assert key(run("echo made > /made", "A=b", proxy_env=ops_pb2.ProxyEnv(http_proxy="http://p"))) == changed


def test_keys_of_files() -> None:
    making = ops_pb2.FileActionMkDir(path="/w", mode=0o755, makeParents=True, timestamp=-1)
    action = ops_pb2.FileAction(input=0, secondaryInput=-1, output=0, mkdir=making)
    found, needs = key(vertex(ops_pb2.Op(file=ops_pb2.FileOp(actions=[action]))))
    assert found == "sha256:f6515d8afd8f2d2ce6612a1d4492f88887feb327524d76cfd0f4c19c328711c2"
    assert needs == (Needs(),)
    found, needs = key(copy("/out", dest="/from-build"))
    assert found == "sha256:14c675cb12ab04db8d4660462b0b9caf9ee39b73a074c9f11b66b0625846a39c"
    selector = "sha256:a5bcd92e5ab3b071d95f7c842563c82ee88ccfdda4536ae94d6da4e6d4bece5d"
    assert needs == (Needs(), Needs(selector, (Selector("/out"),)))
    found, needs = key(copy("/file", "/dir", dest="/copied/"))
    assert found == "sha256:c793c303c0872788b206150826e0ffac9ca206a95c53444a6b9ea3e984e6d215"
    assert needs[1].content == (Selector("/dir"), Selector("/file"))
    assert key(copy("/f*", dest="/"))[1][1].content == (Selector("/f*", wildcard=True),)


def test_image_has_a_cache_key_by_digest_and_a_cache_key_by_layers() -> None:
    diff_id = "sha256:d4f4b5323abe2c5938a93350a5e690b716ef7be457be20eafda0b9b98261281b"
    digest = "sha256:6924e0a094e186acbf1c2fb1e956949cfdc950d42ebc1b69e330aafe60c99e4c"
    by_digest = "sha256:f901faaec56e94b1509818412fa7b30ba048e7c18b99037e654b68ab6c033f6e"
    by_layers = "sha256:5c7224cb4b62b37a6b0182b09f0c7fceea8ca6557e5fa40602acd5ef56dfc3f9"
    assert image_keys(digest, [diff_id], "linux/amd64") == [by_digest, by_layers]
    assert image_keys("", [diff_id], "linux/amd64") == [by_layers]


@pytest.mark.root  # the expected digests are of files that root owns
def test_keys_of_content(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir(mode=0o755)
    (tmp_path / "file").write_text("x\n")
    (tmp_path / "dir" / "y").write_text("y\n")
    for path in ("file", "dir/y"):
        (tmp_path / path).chmod(0o644)
    (tmp_path / "dir").chmod(0o755)
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        parts = [content_digest(root, Selector(path), sent=True) for path in ("/dir", "/file")]
        assert content_key(filter(None, parts)) == "sha256:a61b97893ac41ccb38a9ff9c0a95eb17185933c83a338ae1bf4607ad2b51ac5a"
        (tmp_path / "link").symlink_to("dir/../file")
        (tmp_path / "out").symlink_to("../" * 20 + "file")
        assert (
            content_digest(root, Selector("link"), sent=True) == content_digest(root, Selector("out"), sent=True) == parts[1]
        )
        assert content_digest(root, Selector("/nosuch"), sent=True) is None
        (tmp_path / "dir" / "pipe").unlink(missing_ok=True)
        os.mkfifo(tmp_path / "dir" / "pipe")
        assert content_digest(root, Selector("/dir"), sent=True) is None, "BuildKit describes it in another way"
        os.unlink(tmp_path / "dir" / "pipe")
        assert content_digest(root, Selector("/file"), sent=True)
        os.setxattr(tmp_path / "file", "security.capability", CAPABILITY)
        assert content_digest(root, Selector("/file"), sent=True) is None, "BuildKit's digest covers the capabilities"
        os.removexattr(tmp_path / "file", "security.capability")
        os.chown(tmp_path / "file", 1, 1)
        assert content_digest(root, Selector("/file"), sent=True) is None
    finally:
        os.close(root)


SELECTIONS = {
    Selector("/f*", wildcard=True): "sha256:979a895ce078d3dd556ca24fe90e939ef67858f54185c83cb60a953f358d505d",
    Selector("/d*", wildcard=True): "sha256:21dcfc98527f2ba1e4a665d0cfdb51a72de28a4c4721b152b82fc722f0d595c2",
    Selector(
        "/d*", wildcard=True, exclude=("*/more",)
    ): "sha256:db6890266e7b11a9935a0403168d7cad5a39be275cb0c1081c64a24d5d652aeb",
    Selector("/d?r/*", wildcard=True): "sha256:33f9414a77746d8851a211fd38de7a68bcae0bbe8647cd6e74636fbaba319292",
    Selector(
        "/links/d*", wildcard=True, follow=False
    ): "sha256:e7f4bc60cf84aca6f2920576864000fb914d3e525a7f89ffad7bd0a8fea41bd0",
    Selector("/dir", exclude=("b*", "!b.c")): "sha256:6ccd4df1bb48a89700ccb6dca88145cef5b4ec73e9501e292d526b8631127fdd",
    Selector(
        "/", include=("dir/below/more", "f*")
    ): "sha256:5c65dd54142c763bc59e93976ba4433b5c610576341e516b8ee27285355be151",
    Selector("/", exclude=("**/more", "file")): "sha256:b87fe0f7585ead664e23abfb621562042723003a1ef858946c37d626c2b10bb4",
    Selector("/links/dir", follow=False): "sha256:71639aae4f84b8774b3ef4a72c93827204b7a3c088efdf7152a79a3919402b33",
    Selector("/nosuch*", wildcard=True): "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
}


# Copies of files that BuildKit's digest of the selection does not cover
UNCOVERED = [
    Selector("/links/d*/*", wildcard=True),  # a link before the last component
    Selector("/links/dir", include=("a",)),  # patterns do not select the source itself
    Selector("/file", exclude=("*",)),
    Selector("/f*", wildcard=True, include=("a",)),
    Selector("/d*", wildcard=True, include=("nosuch",)),  # the copy makes its destination
    Selector("/nosuch", exclude=("a",)),  # this copy fails
]


@pytest.mark.root  # the expected digests are of files that root owns
def test_keys_of_selections(tmp_path: Path) -> None:
    """`test_build_shared_caches.py` compares such digests with those of dockerd."""
    (tmp_path / "dir" / "below").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "file").write_text("a file\n")
    for name in ("a", "b.c", "below/more"):
        (tmp_path / "dir" / name).write_text(name)
    for path in tmp_path.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (tmp_path / "links" / "dir").symlink_to("/dir")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        found = {wanted: content_digest(root, wanted, sent=True) for wanted in SELECTIONS}
        assert found == SELECTIONS
        assert content_digest(root, Selector("/\\d*", wildcard=True), sent=True) is None, "escapes"
        assert content_digest(root, Selector("/[", wildcard=True), sent=True) is None, "not a pattern"
        (tmp_path / "dangling").symlink_to("nosuch")
        assert content_digest(root, Selector("/dan*", wildcard=True), sent=True) is None
        for wanted in UNCOVERED:
            assert content_digest(root, wanted, sent=True) is None, wanted
    finally:
        os.close(root)


def test_step_with_a_secret_has_a_cache_key_in_the_form_of_each_buildkit_version() -> None:
    """The last key has the form that dockerd 26.1 uses."""
    step = run("true")
    secret = ops_pb2.SecretOpt(ID="none", mode=0o400, optional=True)
    step.op.exec.mounts.add(input=-1, output=-1, dest="/run/secrets/none", mountType=ops_pb2.SECRET, secretOpt=secret)
    *_, last = step_keys(step, "linux/amd64")
    assert (root_key(last.digest, 0), last.inputs) == (
        "sha256:8369500f90a24caebdee6747d6d4cb225e3a9c2bd5d694db86c876ee9b0d3e14",
        (Needs(TWICE, (Selector(),)),),
    )
    assert len({each.digest for each in step_keys(step, "linux/amd64")}) == 3


def test_cache_record_matches_only_a_step_with_the_same_inputs_and_selectors() -> None:
    """A selector is the part of an input that the step uses, such as a file."""
    graph = CacheGraph(
        [
            CacheRecord("image"),
            CacheRecord("content"),
            CacheRecord("step", [[(0, "")], [(1, ""), (3, "part")]]),
            CacheRecord("stage", [[(99, "")]]),  # of a damaged cache
        ]
    )
    assert graph.matches("image", []) == {0}
    assert graph.matches("step", [{0: ""}, {1: ""}]) == {2}
    assert graph.matches("step", [{0: ""}, {3: "part"}]) == {2}
    for inputs in ([{0: ""}], [{0: ""}, {3: ""}], [{0: "part"}, {1: ""}], [{}, {1: ""}], [{1: ""}, {1: ""}]):
        assert not graph.matches("step", inputs)
