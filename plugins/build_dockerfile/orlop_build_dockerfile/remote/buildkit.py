"""BuildKit's keys of steps, by which its records in caches are found (solver/llbsolver/ops: `CacheMap`; solver/cachekey.go).

The key of a step covers its operation alone. A record names its inputs by the numbers of other records. Such a record
belongs to the step that makes the input, or its key is the digest of the input's content. All functions are pure.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from orlop_build_dockerfile.attest.gojson import go_json
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.definition import Vertex

__all__ = [
    "CacheGraph",
    "CacheRecord",
    "Needs",
    "Selector",
    "StepKey",
    "content_key",
    "has_wildcards",
    "image_keys",
    "root_key",
    "step_keys",
]

_PRIVATE = (ops_pb2.SECRET, ops_pb2.SSH)
_WILDCARD = re.compile(r"(?:\\.|[^*?\[\\])*[*?\[]", re.DOTALL)
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


class Selector(msgspec.Struct, frozen=True):
    """A part of an input: a path, which may have wildcards, and the patterns of files below this path. If `follow` is true,
    a link at the end of the path is followed."""

    path: str = "/"
    follow: bool = True
    wildcard: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not (self.wildcard or self.include or self.exclude)


class Needs(msgspec.Struct, frozen=True):
    """How a step uses an input. `selector` is a part of the key. If `content` is not None, the input may also be found by
    the content of these parts."""

    selector: str = ""
    content: tuple[Selector, ...] | None = None


class StepKey(msgspec.Struct, frozen=True):
    digest: str
    inputs: tuple[Needs, ...] = ()


class CacheRecord(msgspec.Struct, frozen=True):
    """`inputs`: for each input of the step, the numbers of the records that may match this input, with a selector. `result`
    is not used by this module."""

    digest: str
    inputs: Sequence[Sequence[tuple[int, str]]] = ()
    result: Any = ""


class CacheGraph:
    """The records of a cache."""

    def __init__(self, records: Sequence[CacheRecord] = ()) -> None:
        self.records = records
        self._numbers: dict[str, list[int]] = {}
        for number, record in enumerate(records):
            self._numbers.setdefault(record.digest, []).append(number)

    def find(self, digest: str) -> Sequence[int]:
        return self._numbers.get(digest, ())

    def contents(self, number: int, index: int) -> Iterable[int]:
        """The records by which an input of a record can be found by its content. These records have no inputs and no
        selector."""
        inputs = self.records[number].inputs
        return (link for link, selector in inputs[index] if not selector) if index < len(inputs) else ()

    def matches(self, digest: str, inputs: Sequence[Mapping[int, str]]) -> set[int]:
        """The records with this key whose inputs are found. `inputs` contains, for each input, the numbers of its records,
        with their selectors."""
        return {
            number
            for number in self.find(digest)
            if len(self.records[number].inputs) == len(inputs)
            and all(
                any(known.get(link) == selector for link, selector in links)
                for links, known in zip(self.records[number].inputs, inputs, strict=True)
            )
        }


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def root_key(digest: str, output: int) -> str:
    """The key of a record of a step's output; content has the output -1."""
    return _digest(f"{digest}@{output}".encode())


def _json(value: object) -> bytes:
    """As Go's `json.Marshal`, which escapes characters of HTML."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).translate(_HTML).encode("utf-8", "replace")


def image_keys(digest: str, diff_ids: Sequence[str], platform: str) -> list[str]:
    """The keys of an image: by its layers, and by the digest that its name has at the registry, with the platform."""
    system, architecture, variant = ([*platform.split("/"), ""])[:3]
    manifest = {"Digest": digest, "OS": system, "Arch": architecture, **({"Variant": variant} if variant else {})}
    names = [_digest(_json(manifest))] if digest else []
    if diff_ids:
        chain = diff_ids[0]
        for diff_id in diff_ids[1:]:
            chain = _digest(f"{chain} {diff_id}".encode())
        names.append(chain)
    return [root_key(_digest(f"buildkit.source.v0:{name}".encode()), 0) for name in names]


def content_key(digests: Iterable[str]) -> str:
    """The key of the content of some parts of an input."""
    return root_key(_digest("\0".join(digests).encode()), -1)


def step_keys(vertex: Vertex, platform: str) -> Sequence[StepKey]:
    """The keys of an operation, one for each form in which BuildKit's versions write this operation. Empty if this module
    has no key for the operation. `platform` is the default platform ("linux/amd64")."""
    if vertex.op.HasField("exec"):
        keys = [_exec_key(op, vertex, platform) for op in _exec_forms(vertex.op.exec)]
        return list(dict.fromkeys(keys))
    return [_file_key(vertex)] if vertex.op.HasField("file") else []


def has_wildcards(path: str) -> bool:
    """Whether BuildKit treats a path as a pattern. A backslash alone does not make a path a pattern."""
    return bool(_WILDCARD.match(path))


def _exec_forms(given: ops_pb2.ExecOp) -> Iterable[ops_pb2.ExecOp]:
    """The operation as given. If it mounts secrets or agents, also the two forms in which BuildKit's clients write these
    mounts. In both forms, the mounts have output 0, and the default agent has no ID. Clients up to version 0.13 write input
    0, later clients write no input."""
    yield given
    if not any(mount.mountType in _PRIVATE for mount in given.mounts):
        return
    for number in (-1, 0):
        form = ops_pb2.ExecOp()
        form.CopyFrom(given)
        for mount in form.mounts:
            if mount.mountType in _PRIVATE:
                mount.input, mount.output = number, 0
            if mount.mountType == ops_pb2.SSH and mount.SSHOpt.ID == "default":
                mount.SSHOpt.ID = ""
        yield form


def _exec_key(given: ops_pb2.ExecOp, vertex: Vertex, platform: str) -> StepKey:
    op, own = ops_pb2.ExecOp(), vertex.op.platform
    op.CopyFrom(given)
    op.meta.ClearField("proxy_env")
    for host in op.meta.extraHosts:
        host.IP = ""
    for mount in op.mounts:
        mount.selector = ""
        if mount.HasField("cacheOpt") and not _is_default_cache(mount):
            mount.cacheOpt.ClearField("ID")
            mount.cacheOpt.ClearField("sharing")
    if len(op.mounts) == 1 and _is_plain_root(op.mounts[0]):
        del op.mounts[:]
    system, architecture, variant = ([*platform.split("/"), ""])[:3]
    parts: dict[str, Any] = {"Type": "buildkit.exec.v0", "Exec": go_json(op)}
    parts |= {"OS": own.OS or system, "Arch": own.Architecture or architecture}
    variant = own.Variant if own.Architecture else variant
    more = {"Variant": variant, "OSVersion": own.OSVersion, "OSFeatures": list(own.OSFeatures)}
    parts |= {name: value for name, value in more.items() if value}
    return StepKey(_digest(_json(parts)), tuple(_exec_needs(given, len(vertex.inputs))))


def _is_default_cache(mount: ops_pb2.Mount) -> bool:
    """Whether the ID and the sharing mode of a cache mount are the defaults of Dockerfiles. The ID may begin with a
    namespace."""
    ident = mount.cacheOpt.ID
    return mount.cacheOpt.sharing == 0 and (ident == mount.dest or ident.partition("/")[2] == mount.dest)


def _is_plain_root(mount: ops_pb2.Mount) -> bool:
    others = (mount.HasField(name) for name in ("cacheOpt", "secretOpt", "SSHOpt"))
    return mount.dest == "/" and not mount.readonly and mount.mountType == ops_pb2.BIND and not any(others)


def _exec_needs(op: ops_pb2.ExecOp, count: int) -> Iterable[Needs]:
    paths: list[list[str]] = [[] for _ in range(count)]
    by_content = [False] * len(paths)
    for mount in op.mounts:
        if mount.mountType != ops_pb2.TMPFS and 0 <= mount.input < len(paths):
            path = posixpath.normpath(posixpath.join("/", mount.selector))
            paths[mount.input].append(path)
            safe = mount.output < 0 or mount.readonly or path == "/"
            is_off = mount.contentCache == ops_pb2.OFF or (mount.contentCache == ops_pb2.DEFAULT and mount.dest == "/")
            by_content[mount.input] = safe and not is_off
    for selected, content in zip(paths, by_content, strict=True):
        selector = _digest("\0".join(selected).encode()) if selected else ""
        parts = tuple(Selector(path) for path in _outermost(selected)) if content else None
        yield Needs(selector, (Selector(),) if parts and any(part.path == "/" for part in parts) else parts)


def _outermost(paths: Iterable[str]) -> list[str]:
    """The paths that are not below another path, without duplicates."""
    once = set(paths)
    return sorted(
        path for path in once if not any(path != other and path.startswith(other.rstrip("/") + "/") for other in once)
    )


def _file_key(vertex: Vertex) -> StepKey:
    selected: dict[int, list[Selector]] = {}
    changed, actions, indexes = set[int](), list[str](), list[list[int]]()
    for action in vertex.op.file.actions:
        kind = str(action.WhichOneof("action"))
        body = getattr(action, kind)
        changed.add(action.input)
        if kind in ("mkdir", "mkfile", "copy") and body.HasField("owner"):
            for user, path in ((body.owner.user, "/etc/passwd"), (body.owner.group, "/etc/group")):
                if user.HasField("byName"):
                    selected.setdefault(user.byName.input, []).append(Selector(path))
        if kind == "copy":
            copy = ops_pb2.FileActionCopy()
            copy.CopyFrom(body)
            if 0 <= action.secondaryInput < len(vertex.inputs):
                selected.setdefault(action.secondaryInput, []).append(_source(copy))
                copy.src = posixpath.basename(copy.src.rstrip("/")) or "/"
            body = copy
        actions.append(base64.b64encode(_json(go_json(body))).decode())
        indexes.append([action.input, action.secondaryInput, action.output])
    parts: dict[str, Any] = {"Type": "buildkit.file.v0", "Actions": actions}
    if not _is_usual(indexes):
        parts["indexes"] = indexes
    needs = [
        _selected(selected[number]) if number in selected and number not in changed else Needs()
        for number in range(len(vertex.inputs))
    ]
    return StepKey(_digest(_json(parts)), tuple(needs))


def _source(copy: ops_pb2.FileActionCopy) -> Selector:
    wildcard = copy.allowWildcard and has_wildcards(copy.src)
    return Selector(copy.src, copy.followSymlink, wildcard, tuple(copy.include_patterns), tuple(copy.exclude_patterns))


def _selected(parts: Sequence[Selector]) -> Needs:
    selector = _digest("\0".join(sorted((part.path for part in parts), reverse=True)).encode())
    found = [
        Selector(path, follow)
        for follow in (False, True)
        for path in _outermost(part.path for part in parts if part.whole and part.follow == follow)
    ]
    found += [part for part in parts if not part.whole]
    return Needs(selector, tuple(sorted(found, key=lambda part: part.path)))


def _is_usual(indexes: Sequence[Sequence[int]]) -> bool:
    """Whether each action uses the result of the previous action. BuildKit then leaves out the indexes. (Its first versions
    left out all indexes.)"""
    last = len(indexes) - 1
    return bool(indexes) and all(
        own == (0 if number == 0 else last + number) and source in (-1, 1) and output == (0 if number == last else -1)
        for number, (own, source, output) in enumerate(indexes)
    )
