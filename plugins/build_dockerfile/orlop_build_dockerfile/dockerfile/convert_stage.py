"""Converts the instructions of one stage, in order."""

from __future__ import annotations

from . import instructions as ins
from .builder import Setting, StageBuilder
from .convert_copy import convert_copy
from .convert_metadata import convert_arg, convert_env, convert_metadata
from .convert_run import convert_run
from .convert_workdir import convert_workdir
from .interface import DockerfileError
from .stages import Command, StageState
from .words import WordError

__all__ = ["convert_stage"]


def convert_stage(state: StageState, setting: Setting) -> None:
    """Convert a stage. Raises `DockerfileError` with the lines of the instruction."""
    builder = StageBuilder(state, setting)
    for command in state.commands:
        ranges = command.instruction.lines.ranges
        builder.linter = setting.linter.with_comments(command.instruction.comments)
        state.in_trigger = command.trigger
        try:
            _convert(builder, command)
        except (ValueError, WordError) as error:
            raise DockerfileError(str(error), ranges=ranges) from None
        except DockerfileError as error:
            raise error.located(ranges) from None


def _convert(builder: StageBuilder, command: Command) -> None:
    match command.instruction:
        case ins.Run() as run:
            convert_run(builder, run, command.sources)
        case ins.Add() | ins.Copy() as copy:
            convert_copy(builder, copy, command.sources)
        case ins.Env() as env:
            convert_env(builder, env)
        case ins.Arg() as arg:
            convert_arg(builder, arg)
        case ins.Workdir() as workdir:
            convert_workdir(builder, workdir)
        case other:
            convert_metadata(builder, other)
