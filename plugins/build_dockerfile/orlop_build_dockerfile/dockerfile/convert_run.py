"""Converts RUN: the command, its mounts, and the build's options for all steps."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import msgspec

from orlop_build_dockerfile.pb import ops_pb2 as pb

from . import instructions as ins
from . import llb
from .builder import StageBuilder
from .goformat import quote
from .heredocs import heredoc_word, without_tabs
from .mounts import Mount, parse_mount
from .outline import Need
from .stages import StageState
from .variables import proxies

__all__ = ["convert_run"]

_SHARING = {"": 0, "shared": 0, "private": 1, "locked": 2}
_NO_OUTPUT = -1


class _Exec:
    """The operation that is being made. Secrets and agents come after other mounts."""

    def __init__(self) -> None:
        self.op = pb.Op()
        self.inputs = llb.Inputs()
        self.mounts: list[tuple[pb.Mount, llb.Output | None]] = []
        self.private: list[pb.Mount] = []
        self.agents = 0


def convert_run(builder: StageBuilder, run: ins.Run, sources: Sequence[StageState | None]) -> None:
    state = builder.state
    state.paths["/"] = None  # a command can read any file
    step = _Exec()
    args, extra = _command(builder, run, step)
    meta = step.op.exec.meta
    meta.args[:] = args
    meta.cwd, meta.user, meta.hostname = state.directory, state.user, builder.options.hostname
    meta.removeMountStubsRecursive = True
    mounts = [parse_mount(text, lambda word: builder.expand(word, run)) for text in run.mounts]
    for mount, source in zip(mounts, sources, strict=True):
        _add_mount(builder, run, step, mount, source)
    _options(builder, run, step)
    env = dict(state.env)
    if step.agents and "SSH_AUTH_SOCK" not in env:
        env["SSH_AUTH_SOCK"] = next(mount.dest for mount in step.private if mount.mountType == pb.SSH)
    meta.env[:] = [f"{name}={value}" for name, value in env.items()]
    builder.setting.lexer.budget.spend(sum(len(item) for item in meta.env))
    _write_mounts(step, state.output)
    llb.set_platform(step.op, builder.platform)
    lexer = msgspec.structs.replace(builder.setting.lexer, raw_quotes=True, skip_unset=True)
    hidden = {mount.env: "****" for mount in mounts if mount.env is not None}
    name = builder.name_step(run, lexer, extra, {**state.env, **hidden})
    vertex = llb.Vertex(
        step.op,
        step.inputs.outputs,
        name=name,
        description={"com.docker.dockerfile.v1.command": run.code},
        ranges=run.lines.ranges,
        ignore_cache=state.ignore_cache,
    )
    state.output = vertex.output()
    builder.record("RUN " + _history(builder, args), layer=True, buildkit=True)


def _command(builder: StageBuilder, run: ins.Run, step: _Exec) -> tuple[list[str], str]:
    """The arguments of the process, and the addition to the name of the step."""
    command = run.command
    args, extra = list(command.words), ""
    if any("\udc80" <= char <= "\udcff" for doc in command.heredocs if not doc.content.isascii() for char in doc.content):
        raise ValueError("this instruction is not valid UTF-8")
    if command.heredocs and command.shell:
        if len(args) != 1:
            raise ValueError(f"parsing produced an invalid run command: {args}")
        first = command.heredocs[0]
        if heredoc_word(args[0], builder.setting.lexer.budget):
            data = without_tabs(first.content) if first.chomp else first.content
            extra = f" ({_summary(first.content)})"
            if data.startswith("#!") and builder.image.platform.os != "windows":
                data = _script(builder, step, first.name, data)
            args = [data]
        else:
            args = [args[0] + "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in command.heredocs)]
    if command.shell:
        args = builder.with_shell(" ".join(args))
    return args, extra


def _summary(text: str) -> str:
    lines = text.strip().replace("\r\n", "\n").split("\n")
    return lines[0] + ("..." if len(lines) > 1 else "")


def _script(builder: StageBuilder, step: _Exec, name: str, data: str) -> str:
    """Mount a heredoc that begins with "#!" as a file. Returns the path of the file."""
    op = llb.file_op()
    action = op.file.actions.add(input=-1, secondaryInput=-1, output=0)
    action.mkfile.path, action.mkfile.mode = f"/{name}", 0o755
    action.mkfile.data, action.mkfile.timestamp = data.encode("utf-8", "surrogateescape"), -1
    vertex = llb.Vertex(op, name=llb.internal("preparing inline document"))
    step.mounts.append((pb.Mount(dest="/dev/pipes/", output=_NO_OUTPUT, readonly=True), vertex.output()))
    return f"/dev/pipes/{name}"


def _history(builder: StageBuilder, args: Sequence[str]) -> str:
    state = builder.state
    shown = [f"{name}={state.env.get(name, value or '')}" for name, value in state.args.items()]
    return " ".join(([f"|{len(shown)}", *shown] if shown else []) + list(args))


def _options(builder: StageBuilder, run: ins.Run, step: _Exec) -> None:
    options = builder.options
    execute, meta = step.op.exec, step.op.exec.meta
    network = run.network if run.network != "default" else options.network
    execute.network = {"": pb.UNSET, "host": pb.HOST, "none": pb.NONE}[network]
    execute.security = pb.INSECURE if run.security == "insecure" else pb.SANDBOX
    for name, value in proxies(options.build_args).items():
        setattr(meta.proxy_env, name, value)
    for host, address in options.extra_hosts:
        meta.extraHosts.add(Host=host, IP=address)
    for ulimit in options.ulimits:
        meta.ulimit.add(Name=ulimit.name, Soft=ulimit.soft, Hard=ulimit.hard)
    meta.cgroupParent = options.cgroup_parent
    for name in options.devices:
        execute.cdiDevices.add(name=name)
    for device in run.devices:
        execute.cdiDevices.add(name=device.name, optional=not device.required)
    if options.shm_size > 0:
        mount = pb.Mount(dest="/dev/shm", output=_NO_OUTPUT, mountType=pb.TMPFS)
        mount.TmpfsOpt.size = options.shm_size
        step.mounts.append((mount, None))


def _write_mounts(step: _Exec, root: llb.Output | None) -> None:
    mounts = [(pb.Mount(dest="/", output=0), root), *step.mounts]
    for mount, source in sorted(mounts, key=lambda item: item[0].dest):
        mount.input = step.inputs.add(source)
        step.op.exec.mounts.append(mount)
    step.op.exec.mounts.extend(step.private)


def _add_mount(builder: StageBuilder, run: ins.Run, step: _Exec, mount: Mount, source: StageState | None) -> None:
    if mount.type == "secret":
        _secret(builder, run, step, mount)
        return
    if mount.type == "ssh":
        _agent(builder, run, step, mount)
        return
    if source is not None and not source.dispatched:
        raise ValueError(
            f"cannot mount from stage {quote(mount.source_stage)} to {quote(mount.target)}, stage needs to be defined "
            "before current command"
        )
    target = builder.path(mount.target).rstrip("/") or "/"
    if target == "/":
        raise ValueError(f"invalid mount target {quote(mount.target or target)}")
    message = pb.Mount(dest=target, output=_NO_OUTPUT, readonly=mount.readonly)
    output: llb.Output | None = None
    if mount.type == "tmpfs":
        message.mountType = pb.TMPFS
        message.TmpfsOpt.size = mount.size
    elif source is not None:
        output = source.output
    elif mount.type == "bind" and not mount.source_stage:
        output = builder.setting.context
    path = posixpath.normpath(posixpath.join("/", mount.source)).replace("//", "/")
    if mount.type == "cache":
        _cache(builder, message, mount)
    if path != "/":
        message.selector = path
    elif mount.type == "cache" and (mount.uid, mount.gid, mount.mode) != (None, None, None):
        output = _owned_directory(builder, mount, output)
        message.selector = "/cache"
    if mount.type == "bind" and not mount.source_stage:
        builder.state.context_paths[path] = None
    elif source is not None:
        source.paths[path] = None
    step.mounts.append((message, output))


def _cache(builder: StageBuilder, message: pb.Mount, mount: Mount) -> None:
    message.mountType = pb.CACHE
    message.cacheOpt.ID = f"{builder.options.cache_namespace}/{mount.id or posixpath.normpath(mount.target)}"
    message.cacheOpt.sharing = _SHARING[mount.sharing]  # type: ignore[assignment]


def _owned_directory(builder: StageBuilder, mount: Mount, base: llb.Output | None) -> llb.Output:
    """The initial content of a cache mount with an owner or a mode: a directory with this owner and mode."""
    op = llb.file_op()
    inputs = llb.Inputs()
    action = op.file.actions.add(input=inputs.add(base), secondaryInput=-1, output=0)
    made = action.mkdir
    made.path, made.timestamp = "/cache", -1
    made.mode = 0o755 if mount.mode is None else mount.mode & 0o777
    made.owner.user.byID, made.owner.group.byID = mount.uid or 0, mount.gid or 0
    return llb.Vertex(op, inputs.outputs, name=llb.internal("settings cache mount permissions")).output()


def _secret(builder: StageBuilder, run: ins.Run, step: _Exec, mount: Mount) -> None:
    name = mount.source or mount.id or posixpath.basename(mount.target.rstrip("/"))
    if not name:
        raise ValueError("one of source, target required")
    builder.state.outline.secrets.setdefault(name, Need(name, mount.required, run.lines.ranges))
    if mount.env is not None:
        step.op.exec.secretenv.add(ID=name, name=mount.env, optional=not mount.required)
    if mount.env is not None and not mount.target:
        return
    target = mount.target or f"/run/secrets/{posixpath.basename(name)}"
    message = pb.Mount(input=-1, dest=builder.path(target), output=_NO_OUTPUT, mountType=pb.SECRET)
    secret = message.secretOpt
    secret.ID, secret.optional = name, not mount.required
    secret.uid, secret.gid = mount.uid or 0, mount.gid or 0
    secret.mode = 0o400 if mount.mode is None else mount.mode
    step.private.append(message)


def _agent(builder: StageBuilder, run: ins.Run, step: _Exec, mount: Mount) -> None:
    if mount.source:
        raise ValueError("ssh does not support source")
    name = mount.id or "default"
    builder.state.outline.agents.setdefault(name, Need(name, mount.required, run.lines.ranges))
    target = mount.target or f"/run/buildkit/ssh_agent.{step.agents}"
    step.agents += 1
    message = pb.Mount(input=-1, dest=builder.path(target), output=_NO_OUTPUT, mountType=pb.SSH)
    agent = message.SSHOpt
    agent.ID, agent.optional = name, not mount.required
    agent.uid, agent.gid = mount.uid or 0, mount.gid or 0
    agent.mode = 0o600 if mount.mode is None else mount.mode
    step.private.append(message)
