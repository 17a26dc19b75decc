"""Converts WORKDIR, which also makes the directory."""

from __future__ import annotations

from . import checks, llb
from . import instructions as ins
from .builder import StageBuilder, joined
from .convert_copy import set_owner, timestamp

__all__ = ["convert_workdir"]


def convert_workdir(builder: StageBuilder, workdir: ins.Workdir) -> None:
    path = builder.expand(workdir.path, workdir)
    if not builder.state.directory_set and not path.startswith("/"):
        checks.relative_workdir(path, workdir, builder.linter)
    builder.state.directory_set = True
    builder.state.directory = joined(builder.image.config.get("WorkingDir") or "/", path or "/")
    if not path:
        builder.state.directory = joined("/", builder.image.config.get("WorkingDir") or "/")
    builder.image.config["WorkingDir"] = builder.state.directory
    if builder.state.directory != "/":
        _make_directory(builder, workdir)
    builder.record(f"WORKDIR {builder.state.directory}", layer=builder.state.directory != "/")


def _make_directory(builder: StageBuilder, workdir: ins.Workdir) -> None:
    state = builder.state
    op = llb.file_op()
    inputs = llb.Inputs()
    base = inputs.add(state.output)
    made = op.file.actions.add(input=base, secondaryInput=-1, output=0).mkdir
    made.path, made.mode, made.makeParents = state.directory, 0o755, True
    made.timestamp = timestamp(builder)
    set_owner(made.owner, builder.image.config.get("User") or "", base)
    name = builder.name_step(workdir, builder.setting.lexer)
    vertex = llb.Vertex(op, inputs.outputs, name=name, ranges=workdir.lines.ranges)
    state.output = vertex.output()
