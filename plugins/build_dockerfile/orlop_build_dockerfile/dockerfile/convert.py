"""Converts a Dockerfile to a graph and an image's configuration, for one platform (buildkit dockerfile2llb)."""

from __future__ import annotations

import msgspec

from . import checks, sources
from . import instructions as ins
from .build_instructions import instruction_of_trigger, read_stages
from .builder import Setting, step_name
from .context import Contexts, NamedContext, failure, follow_paths, resolved
from .convert_stage import convert_stage
from .goformat import quote
from .image import Image
from .interface import DockerfileError, Failed, PlatformResult, ResolveImage, SourceFile
from .limits import Budget
from .lint import LintConfig, Linter, parse_lint_options
from .llb import Output, definition
from .mounts import check_mount
from .options import Options
from .parser import Parsed, parse, read_check
from .platforms import Platform, parse_platform
from .references import parse_reference
from .scans import scans
from .stages import Command, StageState, StageTable, reachable, refuse_cycles
from .suggest import suggestion
from .together import Steps, together
from .variables import default_arguments, global_arguments
from .words import Expanded, Lexer, WordError

__all__ = ["PlatformConversion", "lint_config"]

_COMMON = [
    variant
    for name in ("alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora")
    for variant in (name, f"{name}:latest")
]


def lint_config(text: str, options: Options) -> LintConfig:
    if options.lint is not None:
        return options.lint
    try:
        return parse_lint_options(read_check(text))
    except ValueError as error:
        raise DockerfileError(f"failed to parse check options: {error}") from None


class PlatformConversion:
    """`platform` is None if the build requests no platform; in this case the image's platform is used. With `all_stages`,
    stages that the target does not need are also converted, for lint."""

    def __init__(
        self,
        source: SourceFile,
        options: Options,
        contexts: Contexts,
        platform: Platform | None,
        budget: Budget,
        *,
        all_stages: bool = False,
        created: str = "",
    ) -> None:
        self.source, self.options, self.contexts, self.budget = source, options, contexts, budget
        self.platform = platform or options.build_platform
        self._implicit = platform is None
        self._all_stages = all_stages
        self._created = options.created or created or None
        self._text = source.data.decode("utf-8", "surrogateescape")
        self.linter = Linter(lint_config(self._text, options))
        self.table = StageTable()
        self._arguments: dict[str, str] = {}
        self._lexer = Lexer("\\", budget)
        self.target: StageState | None = None
        self._needed: set[StageState] = set()
        self._ignored: list[str] = []
        self._context: Output | None = None

    def run(self) -> Steps[PlatformResult]:
        if not self.source.data:
            raise DockerfileError("the Dockerfile cannot be empty")
        parsed = parse(self._text, self.budget)
        self._lexer = Lexer(parsed.escape, self.budget)
        self._prepare(parsed)
        target = self.target = self.table.target(self.options.target)
        self._link()
        yield from together([self._resolve(target), self._read_ignored()])
        self._dispatch(target)
        return self._result(target)

    def _prepare(self, parsed: Parsed) -> None:
        for lines in parsed.empty_continuations:
            self.linter.report("NoEmptyContinuation", lines.ranges, "Empty continuation line")
        found = read_stages(parsed.nodes, self.budget)
        if not found.stages:
            raise DockerfileError("dockerfile contains no stages to build")
        checks.stage_names(found.stages, self.linter)
        checks.casing(found.stages, self.linter)
        checks.descriptions(found.stages, found.arguments, self.linter)
        checks.maintainers(found.stages, self.linter)
        target_stage = self.options.target or found.stages[-1].name
        defaults = default_arguments(self.options, self.platform, target_stage)
        checks.default_bases(found, defaults, self._lexer, self.linter)
        self._arguments, infos = global_arguments(defaults, found.arguments, self.options.build_args, self._lexer)
        known = {*self._arguments, *infos}
        for number, stage in enumerate(found.stages):
            state = self._stage(number, stage, known)
            state.outline.args = infos | state.outline.args

    def _expand(self, text: str, stage: ins.Stage, what: str = "") -> Expanded:
        try:
            return self._lexer.expand(text, self._arguments)
        except WordError as error:
            raise DockerfileError(what + str(error), ranges=stage.lines.ranges) from None

    def _stage(self, number: int, stage: ins.Stage, known: set[str]) -> StageState:
        linter = self.linter.with_comments(stage.comments)
        name = self._expand(stage.base, stage)
        checks.arguments_of_from(name.unmatched, known, stage, linter)
        if not name.text:
            raise DockerfileError(f"base name ({stage.base}) should not be blank", ranges=stage.lines.ranges)
        used = set(name.matched)
        platform = None
        if stage.platform:
            expanded = self._expand(stage.platform, stage, "failed to process arguments for platform : ")
            checks.arguments_of_from(expanded.unmatched, known, stage, linter)
            checks.platform_of_from(stage, expanded, self._arguments, linter)
            platform = self._stage_platform(stage, expanded)
            used |= set(expanded.matched)
        stage = msgspec.structs.replace(stage, base=name.text)
        state = StageState(stage, name=stage.name or f"stage-{number}", platform=platform)
        if stage.name and stage.name not in ("scratch", "context"):
            state.context_key = self.contexts.named(stage.name, platform or self.platform)
        self.table.add(state)
        state.outline.used |= used
        counted = (ins.Add, ins.Copy, ins.Run, ins.Workdir)
        state.steps = sum(isinstance(instruction, counted) for instruction in stage.instructions)
        state.steps += stage.base != "scratch" and state.base is None
        state.ignore_cache = self.options.ignores_cache(stage.name)
        return state

    def _stage_platform(self, stage: ins.Stage, expanded: Expanded) -> Platform:
        hint = next(filter(None, (suggestion(name, self._arguments) for name in expanded.unmatched)), "")
        if not expanded.text:
            message = f"empty platform value from expression {stage.platform}"
            raise DockerfileError(message + hint, ranges=stage.lines.ranges)
        try:
            return parse_platform(expanded.text, self.options.build_platform)
        except ValueError as error:
            message = f"failed to parse platform {stage.platform}: {error}{hint}"
            raise DockerfileError(message, ranges=stage.lines.ranges) from None

    def _link(self) -> None:
        """Find the stages to which instructions refer."""
        for state in list(self.table.states):
            for instruction in state.stage.instructions:
                state.commands.append(self._command(state, instruction))
        refuse_cycles(self.table.states)
        mounts = any(isinstance(item, ins.Run) and item.mounts for item in self.table.states[0].stage.instructions)
        if len(self.table.states) == 1 and not mounts:  # if a step has mounts, BuildKit counts one more stage
            self.table.states[0].name = ""

    def _command(self, state: StageState, instruction: ins.Instruction, *, trigger: bool = False) -> Command:
        found: list[StageState | None] = []
        if isinstance(instruction, ins.Copy) and instruction.source:
            found.append(self._copy_source(instruction))
        elif isinstance(instruction, ins.Run):
            for mount in instruction.mounts:
                kind, name = check_mount(mount)
                wanted = name and kind not in ("tmpfs", "secret", "ssh") and name != "scratch"
                found.append(self._stage_or_image(name, instruction) if wanted else None)
        for needed in found:
            if needed is not None:
                self.table.require(state, needed, instruction)
        return Command(instruction, tuple(found), trigger)

    def _copy_source(self, copy: ins.Copy) -> StageState:
        try:
            plain = self._lexer.word(copy.source, {}) == copy.source
        except WordError as error:
            raise DockerfileError(str(error), ranges=copy.lines.ranges) from None
        if not plain:
            raise DockerfileError(
                "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope "
                "as a workaround",
                ranges=copy.lines.ranges,
            )
        if copy.source.isdecimal() and len(copy.source) < 10:
            try:
                return self.table.at(int(copy.source))
            except DockerfileError as error:
                raise DockerfileError(error.message, ranges=copy.lines.ranges) from None
        return self._stage_or_image(copy.source, copy)

    def _stage_or_image(self, name: str, instruction: ins.Instruction) -> StageState:
        found = self.table.find(name)
        if found is not None:
            return found
        return self.table.image(name, instruction.lines)

    def _read_ignored(self) -> Steps[None]:
        self._ignored = yield from self.contexts.ignore_patterns()

    def _resolve(self, target: StageState) -> Steps[None]:
        """Resolve the bases of all needed stages. Their triggers may need more stages."""
        while True:
            needed = set(self.table.states) if self._all_stages else reachable(target)
            waiting = [s for s in self.table.states if s in needed and s.base is None and not s.resolved]
            yield from together([self._resolve_base(state) for state in waiting])
            more = False
            for state in [s for s in self.table.states if s in needed and not s.triggers_done]:
                more |= self._triggers(state)
            if not more:
                self._needed = needed
                return

    def _resolve_base(self, state: StageState) -> Steps[None]:
        state.resolved = True
        try:
            yield from self._base(state)
        except DockerfileError as error:
            raise error.located(state.ranges) from None
        if state.anonymous:
            state.dispatched = True

    def _base(self, state: StageState) -> Steps[None]:
        stage = state.stage
        if state.context_key is not None:
            found = yield from self.contexts.load(state.context_key, state.platform or self.platform)
            self._use_context(state, found)
            state.dispatched = True
            return
        if stage.base == "scratch":
            state.platform, state.image = self.platform, Image.empty(self.platform)
            return
        try:
            reference = parse_reference(stage.base)
        except ValueError as error:
            raise DockerfileError(f"failed to parse stage name {quote(stage.base)}: {error}") from None
        platform = state.platform or self.platform
        name = str(reference.tagged())
        if stage.base != "context" and (key := self.contexts.named(name, platform)) is not None:
            state.platform = platform
            self._use_context(state, (yield from self.contexts.load(key, platform)))
            state.platform = platform
            return
        yield from self._image(state, name, platform)

    def _use_context(self, state: StageState, found: NamedContext) -> None:
        state.output, state.late = found.output, found.late
        state.image = found.image or Image.empty(state.platform or self.platform)
        if found.image is not None:
            state.base_config = found.image.written()
            if found.image.platform.os and found.image.platform.architecture:
                state.platform = found.image.platform
        state.platform = state.platform or self.platform

    def _image(self, state: StageState, name: str, platform: Platform) -> Steps[None]:
        prefix = f"[{platform.full} internal]" if self.options.multi_platform else "[internal]"
        mode = self.options.resolve_mode
        original = state.stage.base
        (answer,) = yield (ResolveImage(name, str(platform), mode, f"{prefix} load metadata for {name}"),)
        if isinstance(answer, Failed):
            error = failure(answer, f"{original}: ")
            error.message += suggestion(original, [*self.table.names, *_COMMON])
            raise error
        found, image = resolved(answer)
        reference = parse_reference(found.name or name)
        state.base_config = found.config
        if state.platform is None and self._implicit:
            platform = _detected(image, platform, self.options.build_platform)
        if found.digest:
            reference = reference.with_digest(found.digest)
        state.image, state.platform = image, platform
        checks.base_platform(original, platform, image.platform, state.ranges, self.linter)
        if image.has_layers:
            prefix_platform = self.options.multi_platform
            text = step_name(state, f"FROM {reference}", platform, prefix_platform=prefix_platform, env={})
            code = state.stage.code
            state.output = sources.image(str(reference), platform, mode, text, command=code, ranges=state.ranges)

    def _triggers(self, state: StageState) -> bool:
        """Add the ONBUILD instructions of a stage's base. Returns whether they need other stages."""
        if state.base is not None:
            expressions = [
                command.instruction.expression
                for command in state.base.commands
                if isinstance(command.instruction, ins.Onbuild)
            ]
        else:
            expressions = list(state.image.config.pop("OnBuild", None) or []) if state.image else []
        state.triggers_done = True
        before = len(state.needs)
        commands = []
        for text in expressions:
            instruction = instruction_of_trigger(text, state.stage.lines, self.budget)
            commands.append(self._command(state, instruction, trigger=True))
        state.commands = commands + state.commands
        state.steps += len(commands)
        if len(state.needs) > before:
            refuse_cycles(self.table.states)
        return len(state.needs) > before

    def _dispatch(self, target: StageState) -> None:
        needed, patterns = self._needed, self._ignored
        context, complete = self.contexts.main_context(patterns)
        self._context = context
        setting = Setting(
            options=self.options,
            platform=self.platform,
            arguments=self._arguments,
            lexer=self._lexer,
            linter=self.linter,
            context=context,
            ignored=patterns,
            merge=self.contexts.can_merge,
            created=self._created,
        )
        used: dict[str, None] = {}
        for state in self.table.states:
            if state in needed and not state.dispatched:
                state.dispatched = True
                convert_stage(state, setting)
                used |= state.context_paths
        target.paths["/"] = None
        self.linter.fail_if_asked()
        for state in needed:
            if state.late is not None:
                state.late(follow_paths(state.paths))
        if complete is not None:
            complete(follow_paths(used))

    def _result(self, target: StageState) -> PlatformResult:
        assert target.image is not None
        image = target.image
        if self.options.labels:
            image.config["Labels"] = {**(image.config.get("Labels") or {}), **self.options.labels}
        if not self._implicit:
            image.set_platform(self.platform)
        if self._created:
            image.data["created"] = self._created
        config = image.written()
        return PlatformResult(
            str(self.platform.normalized()),
            definition(target.output, self.source),
            config,
            target.base_config,
            scans(target, self._needed, self._arguments, self._context),
        )


def _detected(image: Image, target: Platform, build: Platform) -> Platform:
    """The image's platform, if this host can run it."""
    own = image.platform
    for candidate in (target, build):
        if (own.os, own.architecture) == (candidate.os, candidate.architecture):
            return candidate
    return target
