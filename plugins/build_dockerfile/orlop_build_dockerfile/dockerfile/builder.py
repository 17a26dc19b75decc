"""A stage during its conversion: the parts that all kinds of instructions need."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence

import msgspec

from . import checks
from . import instructions as ins
from .image import default_path
from .lint import Linter
from .llb import Output
from .options import Options
from .platforms import Platform, parse_platform
from .stages import StageState
from .words import Lexer, WordError

__all__ = ["Setting", "StageBuilder", "joined", "step_name"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that all stages of a build share. `arguments` are the global arguments, `context` the main context, `ignored`
    the patterns of its ignored files, `created` the time for histories, or None."""

    options: Options
    platform: Platform
    arguments: Mapping[str, str]
    lexer: Lexer
    linter: Linter
    context: Output | None
    ignored: Sequence[str]
    merge: bool
    created: str | None


class StageBuilder:
    """Changes a `StageState` while the instructions of its stage are converted."""

    def __init__(self, state: StageState, setting: Setting) -> None:
        self.state, self.setting, self.options = state, setting, setting.options
        self.linter = setting.linter
        if state.base is not None:
            state.inherit()
        assert state.image is not None
        self.image = state.image
        self.platform = state.platform = state.platform or setting.platform
        if "PATH" not in self.image.env and self.platform.os != "windows":
            self.image.set_env("PATH", default_path(self.platform.os))
        state.env = dict(state.base.env) if state.base is not None else {}
        for name, value in self.image.env.items():  # after the arguments of the base, as in BuildKit
            self.set_variable(name, value)
        setting.lexer.budget.spend(sum(len(name) + len(value) for name, value in state.env.items()))
        state.directory = joined("/", self.image.config.get("WorkingDir") or "/")
        state.user = self.image.config.get("User") or ""

    def record(self, text: str, *, layer: bool = False, buildkit: bool = False) -> None:
        self.setting.lexer.budget.spend(len(text))
        self.image.record(text, layer=layer, created=self.setting.created, buildkit=buildkit)

    def expand(self, text: str, instruction: ins.Instruction, lexer: Lexer | None = None) -> str:
        """Expand a text to one word, with the variables of this stage."""
        found = (lexer or self.setting.lexer).expand(text, self.state.env)
        if found.unmatched:
            checks.variables(found.unmatched, self.state.declared, self.state.env, instruction, self.linter)
        return found.text

    def name_step(
        self, instruction: ins.Instruction, lexer: Lexer, extra: str = "", env: Mapping[str, str] | None = None
    ) -> str:
        """The name of an instruction's step. Its variables are expanded, if possible."""
        text = instruction.code + extra
        try:
            text = lexer.word(text, self.state.env if env is None else env)
        except WordError:
            pass  # the text has the syntax of the shell, not of Dockerfiles
        word, space, rest = text.partition(" ")
        prefix = self.options.multi_platform
        return step_name(self.state, word.upper() + space + rest, self.platform, prefix_platform=prefix, env=self.state.env)

    def with_shell(self, line: str) -> list[str]:
        """The command that runs a line in the image's shell."""
        default = ["cmd", "/S", "/C"] if self.image.platform.os == "windows" else ["/bin/sh", "-c"]
        return [*(self.image.config.get("Shell") or default), line]

    def path(self, text: str) -> str:
        """The absolute path of a path that is relative to the working directory. A slash or "/." at the end is kept, because
        it shows that the path is a directory."""
        if not text or text == ".":
            text = "./"
        path = joined(self.state.directory, text)
        if text.endswith("/") and not path.endswith("/"):
            path += "/"
        elif text.endswith("/."):
            path += "." if path == "/" else "/."
        return path

    def set_variable(self, name: str, value: str) -> None:
        self.state.env.pop(name, None)
        self.state.env[name] = value


def step_name(state: StageState, text: str, platform: Platform, *, prefix_platform: bool, env: Mapping[str, str]) -> str:
    """The name of a step that clients show: "[stage 2/5] RUN ..."."""
    if state.steps == 0:
        return text
    state.steps_done += 1
    parts = []
    if prefix_platform:
        parts.append(platform.full + _target_suffix(platform, env))
    if state.name:
        parts.append(state.name)
    width = len(str(state.steps))
    parts.append(f"{state.steps_done:{width}}/{state.steps}")
    return f"[{' '.join(parts)}] {'ONBUILD ' if state.in_trigger else ''}{text}"


def joined(directory: str, path: str) -> str:
    joined = posixpath.normpath(posixpath.join("/", directory, path))
    return "/" + joined.lstrip("/")


def _target_suffix(platform: Platform, env: Mapping[str, str]) -> str:
    """The text for cross compilation: "linux/amd64->arm64"."""
    target = None
    if "TARGETPLATFORM" in env:
        try:
            target = parse_platform(env["TARGETPLATFORM"])
        except ValueError:
            target = None
    if target is None:
        if not {"TARGETOS", "TARGETARCH", "TARGETVARIANT"} & set(env):
            return ""
        target = Platform(
            env.get("TARGETOS") or platform.os, env.get("TARGETARCH") or platform.architecture, env.get("TARGETVARIANT", "")
        )
    target = target.normalized()
    if target.os != platform.os:
        return f"->{target.full}"
    if target.architecture != platform.architecture:
        return f"->{target.architecture}" + (f"/{target.variant}" if target.variant else "")
    return ""
