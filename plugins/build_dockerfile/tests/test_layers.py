"""The operations merge, diff and build, on a fake daemon; and property tests of the changes between layers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from orlop_build_dockerfile.contracts import BuildFailed, Ref
from orlop_build_dockerfile.ops.changes import apply_changes, find_changes
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.testing import FakeBuild, Llb
from orlop_sdk.files import copy_tree, delete_tree

from .test_solver import BASE, Engine, engine

__all__ = ["engine"]

OLD = 1_000_000_000


def merge(llb: Llb, *inputs: tuple[str, int]) -> tuple[str, int]:
    op = ops_pb2.MergeOp(inputs=[ops_pb2.MergeInput(input=number) for number in range(len(inputs))])
    return llb.add(ops_pb2.Op(merge=op), inputs), 0


def diff(llb: Llb, lower: tuple[str, int] | None, upper: tuple[str, int]) -> tuple[str, int]:
    inputs = [upper] if lower is None else [lower, upper]
    op = ops_pb2.DiffOp(
        lower=ops_pb2.LowerDiffInput(input=-1 if lower is None else 0),
        upper=ops_pb2.UpperDiffInput(input=len(inputs) - 1),
    )
    return llb.add(ops_pb2.Op(diff=op), inputs), 0


def mkfile(path: str, data: bytes) -> ops_pb2.FileAction:
    return ops_pb2.FileAction(mkfile=ops_pb2.FileActionMkFile(path=path, data=data, mode=0o644, timestamp=OLD * 10**9))


async def files(engine: Engine, llb: Llb, end: tuple[str, int]) -> tuple[dict[str, str], FakeBuild]:
    """Build a value. Returns the files of the value, and the build."""
    found: dict[str, str] = {}
    made = FakeBuild(engine.session)
    failed: BuildFailed | None = None
    async with engine.solver() as solver, solver.open(made) as job:

        async def collect(ref: Ref, path: str) -> None:
            for entry in await job.read_directory(ref, path or "/"):
                inner = f"{path}/{entry.path}"
                if entry.mode >> 31:
                    await collect(ref, inner)
                else:
                    found[inner] = (await job.read_file(ref, inner)).decode()

        try:
            await collect(job.define(llb.define(end)), "")
        except BuildFailed as error:
            failed = error
    if failed is not None:
        raise failed
    return found, made


def run(test: object) -> None:
    trio.run(test)  # type: ignore[arg-type]


def test_merge_applies_later_inputs_over_earlier_inputs(engine: Engine) -> None:
    async def main() -> None:
        llb = Llb()
        one = llb.run(llb.files(None, mkfile("/both", b"one"), mkfile("/one", b"1")), "write /dir/of-one x")
        two = llb.files(None, mkfile("/both", b"two"), mkfile("/two", b"2"))
        found, _ = await files(engine, llb, merge(llb, one, two))
        assert found == {"/both": "two", "/one": "1", "/two": "2", "/dir/of-one": "x"}
        _, again = await files(engine, llb, merge(llb, one, two))
        assert all(again.progress.cached().values())

    run(main)


def test_merged_layer_deletes_the_same_files_as_in_its_own_build(engine: Engine) -> None:
    async def main() -> None:
        llb = Llb()
        first = llb.files(None, mkfile("/stays", b"1"), mkfile("/goes", b"2"))
        lower = llb.run(llb.image(BASE), "write /goes base\nwrite /kept base")
        second = llb.run(first, "remove /goes\nwrite /new 3")
        found, _ = await files(engine, llb, merge(llb, lower, second))
        assert "/goes" not in found and found["/kept"] == "base" and found["/new"] == "3" and found["/stays"] == "1"

    run(main)


def test_diff_contains_changed_files_and_a_merge_of_the_diff_deletes_removed_files(engine: Engine) -> None:
    async def main() -> None:
        llb = Llb()
        lower = llb.run(llb.image(BASE), "write /same x\nwrite /changes a\nwrite /goes y")
        upper = llb.run(lower, "write /changes b\nremove /goes\nwrite /deep/new z")
        made = diff(llb, lower, upper)
        found, _ = await files(engine, llb, made)
        assert found == {"/changes": "b", "/deep/new": "z"}
        other = llb.files(None, mkfile("/goes", b"other"), mkfile("/other", b"o"))
        found, _ = await files(engine, llb, merge(llb, other, made))
        assert found == {"/changes": "b", "/deep/new": "z", "/other": "o"}
        # A later build also knows the files that the layer deletes
        found, _again = await files(engine, llb, llb.run(merge(llb, other, made), "write /more m"))
        assert found["/more"] == "m" and "/goes" not in found
        found, _ = await files(engine, llb, merge(llb, other, llb.run(made, "write /on-diff d")))
        assert "/goes" not in found and found["/on-diff"] == "d"

    run(main)


def test_diff_from_scratch_contains_all_files(engine: Engine) -> None:
    async def main() -> None:
        llb = Llb()
        found, _ = await files(engine, llb, diff(llb, None, llb.files(None, mkfile("/a", b"1"))))
        assert found == {"/a": "1"}

    run(main)


def test_image_made_by_merge_contains_the_layers_of_its_inputs(engine: Engine) -> None:
    async def main() -> None:
        llb = Llb()
        two = llb.run(llb.files(None, mkfile("/a", b"1")), "write /b 2")
        end = merge(llb, llb.image(BASE), two)
        made = FakeBuild(engine.session)
        async with engine.solver() as solver, solver.open(made) as job:
            snapshot = await job.snapshot(job.define(llb.define(end)))
            chain = list(solver.core.records.chain(snapshot))
        assert len(chain) == 3 and chain[-1].startswith("image-")

    run(main)


def built(llb: Llb, source: tuple[str, int], **options: object) -> tuple[str, int]:
    given = {"builder": -1, "inputs": {"buildkit.llb.definition": ops_pb2.BuildInput(input=0)}, **options}
    return llb.add(ops_pb2.Op(build=ops_pb2.BuildOp(**given)), [source]), 0  # type: ignore[arg-type]


def test_graph_that_a_step_has_written_is_built(engine: Engine) -> None:
    async def main() -> None:
        inner = Llb()
        definition = inner.define(inner.run(inner.image(BASE), "write /inner yes")).SerializeToString()
        llb = Llb()
        end = built(llb, llb.files(None, mkfile("/graph", definition)), attrs={"llbbuild.filename": "/graph"})
        found, made = await files(engine, llb, llb.run(end, "write /outer too"))
        assert found["/inner"] == "yes" and found["/outer"] == "too"
        assert "write /inner yes" in made.progress.cached()

    run(main)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"\xff\xff", {}, "failed to parse the graph"),
        (b"", {"builder": 0}, "only LLB builder is currently allowed"),
        (b"", {"attrs": {"llbbuild.filename": "none"}}, "open none"),
    ],
)
def test_invalid_nested_graphs_are_refused(engine: Engine, data: bytes, options: Mapping[str, object], message: str) -> None:
    async def main() -> None:
        llb = Llb()
        with pytest.raises(BuildFailed, match=message):
            await files(engine, llb, built(llb, llb.files(None, mkfile("/buildkit.llb.definition", data)), **options))

    run(main)


def test_the_depth_of_nested_graphs_is_bounded(engine: Engine) -> None:
    async def main() -> None:
        inner = Llb()
        data = inner.define(inner.files(None, mkfile("/end", b""))).SerializeToString()
        for _ in range(17):
            around = Llb()
            end = built(around, around.files(None, mkfile("/buildkit.llb.definition", data)))
            data = around.define(end).SerializeToString()
        llb = Llb()
        with pytest.raises(BuildFailed, match="nested deeper than 16"):
            await files(engine, llb, built(llb, llb.files(None, mkfile("/buildkit.llb.definition", data))))

    run(main)


@pytest.mark.parametrize(
    "op",
    [
        ops_pb2.Op(merge=ops_pb2.MergeOp()),
        ops_pb2.Op(merge=ops_pb2.MergeOp(inputs=[ops_pb2.MergeInput(input=7)])),
        ops_pb2.Op(diff=ops_pb2.DiffOp(lower={"input": -2}, upper={"input": -1})),
        ops_pb2.Op(build=ops_pb2.BuildOp(builder=-1, inputs={"x": ops_pb2.BuildInput(input=-1)})),
    ],
)
def test_operations_with_invalid_inputs_are_refused(engine: Engine, op: ops_pb2.Op) -> None:
    async def main() -> None:
        llb = Llb()
        with pytest.raises(BuildFailed, match="failed to load LLB"):
            await files(engine, llb, (llb.add(op), 0))

    run(main)


# --- changes

Tree = dict[str, object]  # a file's text, ("link", target), or a directory
names = st.sampled_from(["a", "b", "c"])
leaves = st.one_of(
    st.tuples(st.sampled_from(["file", "program"]), st.sampled_from(["", "x", "y"])),
    st.tuples(st.just("link"), st.sampled_from(["a", "b", "c/a"])),
)
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8).filter(
    lambda made: isinstance(made, dict)
)


def write(path: Path, tree: Mapping[str, object]) -> None:
    for name, entry in tree.items():
        inner = path / name
        if isinstance(entry, Mapping):
            inner.mkdir()
            write(inner, entry)
        else:
            kind, text = entry  # type: ignore[misc]
            if kind == "link":
                inner.symlink_to(text)
            else:
                inner.write_text(text)
                inner.chmod(0o755 if kind == "program" else 0o644)
        os.utime(inner, (OLD, OLD), follow_symlinks=False)


def shown(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for each in sorted(path.rglob("*")):
        info = each.lstat()
        text = os.readlink(each) if each.is_symlink() else each.read_text() if each.is_file() else ""
        found[str(each.relative_to(path))] = (stat.S_IFMT(info.st_mode), info.st_mode & 0o777, text)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("changes")


@given(lower=trees, upper=trees)
def test_changes_applied_to_the_lower_tree_make_the_upper_tree(place: Path, lower: Tree, upper: Tree) -> None:
    roots = [place / name for name in ("lower", "upper", "target")]
    for root in roots:
        if root.exists():
            delete_tree(str(root))
        root.mkdir()
    write(roots[0], lower)
    write(roots[1], upper)
    fds = [os.open(root, os.O_RDONLY | os.O_DIRECTORY) for root in roots]
    try:
        copy_tree(fds[0], fds[2])
        changes = find_changes(fds[0], fds[1])
        apply_changes(fds[1], fds[2], changes)
        assert shown(roots[2]) == shown(roots[1])
        again = find_changes(fds[1], fds[2])
        assert not again.changed and not again.deleted
        if lower == upper:
            assert not changes.changed and not changes.deleted
    finally:
        for fd in fds:
            os.close(fd)
