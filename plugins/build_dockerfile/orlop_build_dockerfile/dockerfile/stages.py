"""The stages of a build, their dependencies, and the stages that a target needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from . import instructions as ins
from .image import Image
from .interface import DockerfileError, SourceRange
from .llb import Output
from .outline import Outline
from .parser import Lines
from .platforms import Platform
from .suggest import suggestion

__all__ = ["Command", "StageState", "StageTable", "reachable", "refuse_cycles"]


class Command(msgspec.Struct, frozen=True):
    """An instruction to convert. `sources` are the stages of COPY --from, or of each mount of RUN. `trigger` marks
    instructions of ONBUILD."""

    instruction: ins.Instruction
    sources: tuple[StageState | None, ...] = ()
    trigger: bool = False


class StageState:
    """A stage during its conversion: its file system, the environment of its next step, the configuration of its image.

    An `anonymous` stage is an image in COPY --from or in a mount; it is `known` once it is in the table. `context_paths` are
    the paths of the main context that this stage uses. `paths` are the paths of this stage that other stages use. `args` are
    the ARGs of this stage; `declared` also contains the ARGs of its bases. `late` completes the operation of a named
    context.
    """

    def __init__(self, stage: ins.Stage, *, name: str, platform: Platform | None = None, anonymous: bool = False) -> None:
        self.stage, self.name, self.platform, self.anonymous = stage, name, platform, anonymous
        self.known = False
        self.base: StageState | None = None
        self.context_key: str | None = None
        self.late: Callable[[tuple[str, ...]], None] | None = None
        self.needs: dict[StageState, ins.Instruction] = {}
        self.commands: list[Command] = []
        self.output: Output | None = None
        self.image: Image | None = None
        self.base_config = b""
        self.env: dict[str, str] = {}
        self.args: dict[str, str | None] = {}
        self.declared: set[str] = set()
        self.directory, self.user = "/", ""
        self.context_paths: dict[str, None] = {}
        self.paths: dict[str, None] = {}
        self.ignore_cache = False
        self.resolved = self.dispatched = self.triggers_done = False
        self.steps_done = self.steps = 0
        self.in_trigger = False
        self.directory_set = False
        self.outline = Outline()
        self.last: dict[str, tuple[SourceRange, ...]] = {}
        """The positions of the last CMD, ENTRYPOINT and HEALTHCHECK. Only the last instruction of each kind has an
        effect."""

    @property
    def ranges(self) -> tuple[SourceRange, ...]:
        return self.stage.lines.ranges

    def inherit(self) -> None:
        """Begin with the result of the base stage."""
        base = self.base
        assert base is not None and base.image is not None
        self.output, self.platform, self.image = base.output, base.platform, base.image.copied()
        self.base_config = base.base_config
        self.paths, self.directory_set = base.paths, base.directory_set
        self.declared = set(base.declared)


class StageTable:
    """All stages, by name and number."""

    def __init__(self) -> None:
        self.states: list[StageState] = []
        self.named = 0
        self._by_name: dict[str, StageState] = {}
        self._anonymous: dict[str, StageState] = {}

    def add(self, state: StageState) -> None:
        self.states.append(state)
        if not state.anonymous:
            self.named = len(self.states)
        if state.context_key is None:
            state.base = self._by_name.get(state.stage.base)
        if state.base is not None:
            state.outline = state.base.outline.copied()
        if state.stage.name:
            self._by_name[state.stage.name] = state

    def find(self, name: str) -> StageState | None:
        return self._by_name.get(name.lower())

    def at(self, index: int) -> StageState:
        if not 0 <= index < self.named:
            raise DockerfileError(f"invalid stage index {index}")
        return self.states[index]

    @property
    def names(self) -> list[str]:
        return [state.name for state in self.states if state.name]

    def target(self, name: str) -> StageState:
        if not name:
            return self.states[self.named - 1]
        found = self.find(name)
        if found is None and name.isdecimal() and len(name) < 10 and int(name) < self.named:
            found = self.states[int(name)]
        if found is None:
            raise DockerfileError(f'target stage "{name}" could not be found{suggestion(name, self.names)}')
        return found

    def image(self, name: str, lines: Lines) -> StageState:
        """The stage of an image in an instruction. All instructions with this image get the same stage, so the image is
        loaded once."""
        if name not in self._anonymous:
            stage = ins.Stage(base=name, name="", code="", platform="", lines=lines, keyword="FROM")
            self._anonymous[name] = StageState(stage, name="", anonymous=True)
        return self._anonymous[name]

    def require(self, state: StageState, needed: StageState, instruction: ins.Instruction) -> None:
        state.needs.setdefault(needed, instruction)
        if needed.anonymous and not needed.known:
            needed.known = True
            self.add(needed)


def reachable(target: StageState) -> set[StageState]:
    """The target and all stages that it needs."""
    found = {target}
    waiting = [target]
    while waiting:
        state = waiting.pop()
        for needed in (*((state.base,) if state.base else ()), *state.needs):
            if needed not in found:
                found.add(needed)
                waiting.append(needed)
    return found


def refuse_cycles(states: Sequence[StageState]) -> None:
    """Raise an error if stages need each other. This is possible, because a stage can copy from a later stage by name."""
    done: set[StageState] = set()
    for first in states:
        if first in done:
            continue
        path: dict[StageState, ins.Instruction | None] = {first: None}
        stack: list[tuple[StageState, Iterator[tuple[StageState, ins.Instruction]]]] = [(first, iter(first.needs.items()))]
        while stack:
            state, rest = stack[-1]
            for needed, instruction in rest:
                if needed in path:
                    instructions = [*(found for found in path.values() if found), instruction]
                    ranges = [item for found in instructions for item in found.lines.ranges]
                    raise DockerfileError(f"circular dependency detected on stage: {first.name}", ranges=ranges)
                if needed not in done:
                    path[needed] = instruction
                    stack.append((needed, iter(needed.needs.items())))
                    break
            else:
                done.add(state)
                path.pop(state)
                stack.pop()
