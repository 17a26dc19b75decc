"""Converts COPY and ADD."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import msgspec

from orlop_build_dockerfile.pb import ops_pb2 as pb

from . import checks, llb, sources
from . import instructions as ins
from .builder import StageBuilder
from .filemode import check_mode
from .giturl import GitUrl, parse_git_url
from .goformat import parse_int, quote
from .ignore import IgnorePatterns
from .stages import StageState

__all__ = ["convert_copy", "set_owner", "timestamp"]

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_IS_HTTP = re.compile(r"https?://")


class _Copy:
    """An ADD or a COPY whose variables are expanded, and its operation while it is built."""

    def __init__(self, builder: StageBuilder, copy: ins.Add | ins.Copy, source: StageState | None) -> None:
        self.builder, self.copy, self.stage = builder, copy, source
        self.is_add = isinstance(copy, ins.Add)
        raw = msgspec.structs.replace(builder.setting.lexer, escape="\\", skip_quotes=True)

        def expand(text: str) -> str:
            return builder.expand(text, copy)

        self.chown, self.chmod = expand(copy.chown), expand(copy.chmod)
        self.checksum = expand(copy.checksum) if isinstance(copy, ins.Add) else ""
        self.excludes = [expand(text) for text in copy.excludes]
        self.sources = [expand(text) for text in copy.files.sources]
        self.destination = expand(copy.files.destination)
        self.inline = [
            (inline.path, builder.expand(inline.data, copy, raw) if inline.expand else inline.data)
            for inline in copy.files.inline
        ]
        self.target = builder.path(self.destination)
        self.mode, self.mode_text = _mode(self.chmod)
        self.name = ""
        self.actions: list[tuple[llb.Output | None, pb.FileActionCopy]] = []

    def new(self, output: llb.Output | None, path: str) -> pb.FileActionCopy:
        """A copy of `path` with the settings that all copies of the instruction share."""
        action = pb.FileActionCopy(
            src=posixpath.normpath(posixpath.join("/", path)),
            dest=self.target,
            mode=self.mode,
            modeStr=self.mode_text,
            createDestPath=True,
            exclude_patterns=self.excludes,
            timestamp=timestamp(self.builder),
        )
        self.actions.append((output, action))
        return action


def timestamp(builder: StageBuilder) -> int:
    epoch = builder.options.epoch
    return -1 if epoch is None else epoch * 10**9


def _mode(text: str) -> tuple[int, str]:
    """The mode as a number (-1 for none), or as the text of a symbolic mode."""
    if not text:
        return -1, ""
    wrong = f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
    try:
        mode = parse_int(text, 8, 32)
    except ValueError:
        if text[:1].isdecimal():
            raise ValueError(wrong) from None
        check_mode(text)
        return -1, text
    if mode > 0o7777:
        raise ValueError(wrong)
    return mode, ""


def convert_copy(builder: StageBuilder, copy: ins.Add | ins.Copy, stages: Sequence[StageState | None]) -> None:
    source = stages[0] if stages else None
    if source is not None and not source.dispatched:
        assert isinstance(copy, ins.Copy)
        raise ValueError(
            f"cannot copy from stage {quote(copy.source)}, it needs to be defined before current stage "
            f"{quote(builder.state.name)}"
        )
    work = _Copy(builder, copy, source)
    _check_checksum(work)
    work.name = builder.name_step(copy, builder.setting.lexer)
    for path in work.sources:
        _add_source(work, path)
    for name, data in work.inline:
        work.new(_inline_file(builder, name, data), name)
    _write(work)
    builder.record(_history(work), layer=True, buildkit=True)


def _check_checksum(work: _Copy) -> None:
    if not work.checksum:
        return
    if len(work.sources) != 1:
        raise ValueError("checksum can't be specified for multiple sources")
    if not _IS_HTTP.match(work.sources[0]) and not _git(work.sources[0]):
        raise ValueError("checksum requires HTTP(S) or Git sources")


def _git(text: str) -> GitUrl | None:
    url = parse_git_url(text)
    return None if url is None or url.like_local else url


def _add_source(work: _Copy, path: str) -> None:
    if url := _git(path):
        if not work.is_add:
            raise ValueError("source can't be a git ref for COPY")
        _add_git(work, url)
    elif _IS_HTTP.match(path):
        if not work.is_add:
            raise ValueError("source can't be a URL for COPY")
        _add_http(work, path)
    else:
        _add_files(work, path)


def _add_git(work: _Copy, url: GitUrl) -> None:
    assert isinstance(work.copy, ins.Add)
    keep, wanted = work.copy.keep_git_dir, url.keep_git_dir
    if keep is not None and wanted is not None and keep != wanted:
        raise ValueError("inconsistent keep-git-dir configuration")
    checksum = work.checksum or url.checksum
    if url.checksum and url.checksum != checksum:
        raise ValueError(f"checksum mismatch {quote(checksum)} != {quote(url.checksum)}")
    output = sources.git(
        url,
        work.name,
        keep_git_dir=bool(keep or wanted),
        checksum=checksum,
        submodules=url.submodules is not False,
    )
    work.new(output, "/")


def _add_http(work: _Copy, url: str) -> None:
    assert isinstance(work.copy, ins.Add)
    try:
        name = posixpath.basename(posixpath.normpath(unquote(urlsplit(url).path)))
    except ValueError:
        name = ""
    if name in ("", "."):
        name = "__unnamed__"
    if work.checksum:
        _check_digest(work.checksum)
    action = work.new(sources.http(url, name, work.name, checksum=work.checksum), name)
    action.attemptUnpackDockerCompatibility = bool(work.copy.unpack)


def _check_digest(text: str) -> None:
    algorithm, _, value = text.partition(":")
    if not _DIGEST.fullmatch(text):
        raise ValueError("invalid checksum digest format")
    if algorithm not in _LENGTHS:
        raise ValueError("unsupported digest algorithm")
    if len(value) != _LENGTHS[algorithm]:
        raise ValueError("invalid checksum digest length")
    if not re.fullmatch("[a-f0-9]+", value):
        raise ValueError("invalid checksum digest format")


def _add_files(work: _Copy, path: str) -> None:
    builder, copy = work.builder, work.copy
    _use_path(work, path)
    includes: list[str] = []
    required: list[str] = []
    if isinstance(copy, ins.Copy) and copy.parents:
        before, pivot, after = path.partition("/./")
        pattern, path = (after, before) if pivot else (path, "/")
        pattern = posixpath.normpath(posixpath.join("/", pattern)).lstrip("/")
        includes = [pattern]
        if not _has_wildcards(path) and not _has_wildcards(pattern):
            required = [posixpath.normpath(posixpath.join("/", path, pattern))]
    action = work.new(builder.setting.context if work.stage is None else work.stage.output, path)
    action.followSymlink = action.dirCopyContents = True
    action.allowWildcard = action.allowEmptyWildcard = True
    action.include_patterns.extend(includes)
    action.required_paths.extend(required)
    unpack = copy.unpack if isinstance(copy, ins.Add) else False
    action.attemptUnpackDockerCompatibility = work.is_add if unpack is None else unpack


def _use_path(work: _Copy, path: str) -> None:
    """Record which files are used, so that only these files are transferred."""
    used = posixpath.normpath(posixpath.join("/", path)).replace("//", "/")
    if work.stage is not None:
        work.stage.paths[used] = None
        return
    work.builder.state.context_paths[used] = None
    ignored = work.builder.setting.ignored
    if ignored:
        checks.ignored_file(path, IgnorePatterns(list(ignored)), work.copy, work.builder.linter)


def _has_wildcards(path: str) -> bool:
    return bool(re.search(r"[*?\[]", re.sub(r"\\.", "", path)))


def _inline_file(builder: StageBuilder, name: str, data: str) -> llb.Output:
    op = llb.file_op()
    action = op.file.actions.add(input=-1, secondaryInput=-1, output=0)
    action.mkfile.path = posixpath.normpath(posixpath.join("/", name))
    action.mkfile.mode, action.mkfile.timestamp = 0o644, -1
    action.mkfile.data = data.encode("utf-8", "surrogateescape")
    return llb.Vertex(op, name=llb.internal("preparing inline document")).output()


def _write(work: _Copy) -> None:
    builder, state = work.builder, work.builder.state
    linked = work.copy.link and builder.setting.merge and not work.chmod
    base = None if linked else state.output
    vertex = _file_vertex(work, base)
    if not linked:
        state.output = vertex.output()
        return
    merge = llb.file_op()
    inputs = llb.Inputs()
    for output in (state.output, vertex.output()):
        if output is not None:
            merge.merge.inputs.add(input=inputs.add(output))
    prefix, bracket, text = work.name.partition("] ")
    name = f"{prefix}{bracket}LINK {text}" if bracket else f"LINK {work.name}"
    state.output = llb.Vertex(merge, inputs.outputs, name=name, ranges=work.copy.lines.ranges).output()


def _file_vertex(work: _Copy, base: llb.Output | None) -> llb.Vertex:
    op = llb.file_op()
    inputs = llb.Inputs()
    base_index = inputs.add(base)
    indexes = [inputs.add(output) for output, _ in work.actions]
    last = len(work.actions) - 1
    for number, ((_, copy), source) in enumerate(zip(work.actions, indexes, strict=True)):
        before = base_index if number == 0 else len(inputs.outputs) + number - 1
        action = op.file.actions.add(input=before, secondaryInput=source, output=0 if number == last else -1)
        action.copy.CopyFrom(copy)
        set_owner(action.copy.owner, work.chown, base_index)
    return llb.Vertex(
        op,
        inputs.outputs,
        name=work.name,
        ranges=work.copy.lines.ranges,
        ignore_cache=work.builder.state.ignore_cache,
    )


def set_owner(owner: pb.ChownOpt, text: str, base: int) -> None:
    """Set the owner "user:group". Names are looked up in the file system of input `base`."""
    if not text:
        return
    user, colon, group = text.partition(":")
    for field, value, present in ((owner.user, user, True), (owner.group, group, bool(colon))):
        if not present:
            continue
        if value == "root":
            field.byID = 0
        elif re.fullmatch(r"[0-9]{1,10}", value) and int(value) < 1 << 31:
            field.byID = int(value)
        elif not value:
            field.byID = 0  # with ":group", the user is root
        else:
            field.byName.name, field.byName.input = value, base


def _history(work: _Copy) -> str:
    parts = ["ADD" if work.is_add else "COPY"]
    if isinstance(work.copy, ins.Copy) and work.copy.parents:
        parts.append("--parents")
    if work.chown:
        parts.append(f"--chown={work.chown}")
    if work.chmod:
        parts.append(f"--chmod={work.chmod}")
    parts += work.sources
    parts += [f"<<{name}" for name, _ in work.inline]
    return " ".join([*parts, work.destination])
