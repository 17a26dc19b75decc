"""Finds violations of the lint rules, which `lint.py` defines."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from . import instructions as ins
from .build_instructions import Stages
from .goformat import quote
from .ignore import IgnorePatterns
from .interface import DockerfileError, SourceRange
from .lint import Linter
from .platforms import Platform, parse_platform
from .references import parse_reference
from .suggest import nearest
from .variables import global_arguments
from .words import Expanded, Lexer, WordError

_RESERVED = ("context", "scratch")
_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_SBOM = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")


def stage_names(stages: Sequence[ins.Stage], linter: Linter) -> None:
    seen: set[str] = set()
    for stage in stages:
        own = linter.with_comments(stage.comments)
        if stage.alias and stage.alias != stage.name:
            own.report("StageNameCasing", stage.lines.ranges, f"Stage name '{stage.alias}' should be lowercase")
        if stage.keyword_as and not _matches_casing(stage.keyword, stage.keyword_as):
            message = f"'{stage.keyword_as}' and '{stage.keyword}' keywords' casing do not match"
            own.report("FromAsCasing", stage.lines.ranges, message)
        if stage.name in _RESERVED:
            message = f"Stage name should not use the same name as reserved stage {quote(stage.name)}"
            own.report("ReservedStageName", stage.lines.ranges, message)
        if stage.name and stage.name in seen:
            message = f"Duplicate stage name {quote(stage.name)}, stage names should be unique"
            own.report("DuplicateStageName", stage.lines.ranges, message)
        seen.add(stage.name)


def _matches_casing(keyword: str, word: str) -> bool:
    """Whether `word` has the same case as the keyword. Returns True for a keyword of mixed case, because another rule
    reports it."""
    if keyword == keyword.lower():
        return word == word.lower()
    return keyword != keyword.upper() or word == word.upper()


def casing(stages: Sequence[ins.Stage], linter: Linter) -> None:
    """Check that all instructions have the same case as the majority."""
    names = [
        (name, where.lines.ranges, where.comments)
        for stage in stages
        for name, where in [(stage.keyword, stage), *((item.name, item) for item in stage.instructions)]
    ]
    lower = sum(name == name.lower() for name, *_ in names)
    upper = sum(name == name.upper() and name != name.lower() for name, *_ in names)
    wanted = "lowercase" if lower > upper else "uppercase"
    for name, ranges, comments in names:
        if name != (name.lower() if lower > upper else name.upper()):
            message = f"Command '{name}' should match the case of the command majority ({wanted})"
            linter.with_comments(comments).report("ConsistentInstructionCasing", ranges, message)


def descriptions(stages: Sequence[ins.Stage], arguments: Sequence[ins.Arg], linter: Linter) -> None:
    """Check the comments before stages and ARGs. Such a comment is a description if it begins with the name."""
    for stage in stages:
        _description("FROM", [stage.name] if stage.name else [], stage.comments, stage.lines.ranges, linter)
    inner = [item for stage in stages for item in stage.instructions if isinstance(item, ins.Arg)]
    for argument in (*arguments, *inner):
        names = [pair.name for pair in argument.pairs]
        _description("ARG", names, argument.comments, argument.lines.ranges, linter)


def _description(
    what: str, names: list[str], comments: tuple[str, ...], ranges: tuple[SourceRange, ...], linter: Linter
) -> None:
    if not names or not comments or comments[-1].startswith("check="):
        return
    if comments[-1].split(" ", 1)[0] not in names:
        shown = names[0] if len(names) == 1 else "<arg_key>"
        message = f"Comment for {what} should follow the format: `# {shown} <description>`"
        linter.report("InvalidDefinitionDescription", ranges, message)


def maintainers(stages: Sequence[ins.Stage], linter: Linter) -> None:
    for stage in stages:
        for item in stage.instructions:
            if isinstance(item, ins.Maintainer):
                message = "Maintainer instruction is deprecated in favor of using label"
                linter.with_comments(item.comments).report("MaintainerDeprecated", item.lines.ranges, message)


def default_bases(found: Stages, defaults: Mapping[str, str], lexer: Lexer, linter: Linter) -> None:
    """Check that base images have valid names even without build arguments."""
    try:
        arguments, _ = global_arguments(defaults, found.arguments, {}, lexer)
        for stage in found.stages:
            text = lexer.word(stage.base, arguments)
            try:
                parse_reference(text)
            except ValueError:
                message = f"Default value for ARG {stage.base} results in empty or invalid base image name"
                linter.with_comments(stage.comments).report("InvalidDefaultArgInFrom", stage.lines.ranges, message)
    except (DockerfileError, WordError):
        return  # the conversion reports the error


def arguments_of_from(unmatched: Iterable[str], known: set[str], stage: ins.Stage, linter: Linter) -> None:
    for name in unmatched:
        if name not in known:
            hint = nearest(name, sorted(known))
            message = f"FROM argument '{name}' is not declared" + (f" (did you mean {hint}?)" if hint else "")
            linter.report("UndefinedArgInFrom", stage.lines.ranges, message)


def platform_of_from(stage: ins.Stage, expanded: Expanded, arguments: Mapping[str, str], linter: Linter) -> None:
    ranges = stage.lines.ranges
    if expanded.matched or expanded.unmatched:
        alone = list(expanded.matched) == ["TARGETPLATFORM"] and not expanded.unmatched
        if alone and expanded.text == arguments.get("TARGETPLATFORM"):
            message = f"Setting platform to predefined {stage.platform} in FROM is redundant as this is the default behavior"
            linter.report("RedundantTargetPlatform", ranges, message)
        return
    try:
        platform = parse_platform(expanded.text)
    except ValueError:
        return  # the conversion reports the error
    if platform.os not in stage.name and platform.architecture not in stage.name:
        message = f"FROM --platform flag should not use constant value {quote(expanded.text)}"
        linter.report("FromPlatformFlagConstDisallowed", ranges, message)


def base_platform(name: str, wanted: Platform, found: Platform, ranges: Sequence[SourceRange], linter: Linter) -> None:
    if (wanted.os, wanted.architecture) != (found.os, found.architecture):
        expected, actual = wanted.normalized().full, found.normalized().full
        message = f"Base image {name} was pulled with platform {quote(actual)}, expected {quote(expected)} for current build"
        linter.report("InvalidBaseImagePlatform", ranges, message)


def variables(
    unmatched: Iterable[str],
    arguments: Collection[str],
    env: Mapping[str, str],
    instruction: ins.Instruction,
    linter: Linter,
) -> None:
    for name in unmatched:
        if name not in arguments and name not in _SBOM and not linter.full:
            hint = nearest(name, env)
            message = f"Usage of undefined variable '${name}'" + (f" (did you mean ${hint}?)" if hint else "")
            linter.report("UndefinedVar", instruction.lines.ranges, message)


def legacy_format(instruction: ins.Instruction, linter: Linter) -> None:
    keyword = instruction.name
    message = f'"{keyword} key=value" should be used instead of legacy "{keyword} key value" format'
    linter.report("LegacyKeyValueFormat", instruction.lines.ranges, message)


def secret_name(keyword: str, name: str, instruction: ins.Instruction, linter: Linter) -> None:
    if _SECRET.search(name) and not _NO_SECRET.search(name):
        message = f"Do not use ARG or ENV instructions for sensitive data ({keyword} {quote(name)})"
        linter.report("SecretsUsedInArgOrEnv", instruction.lines.ranges, message)


def relative_workdir(path: str, instruction: ins.Workdir, linter: Linter) -> None:
    message = f"Relative workdir {quote(path)} can have unexpected results if the base image changes"
    linter.report("WorkdirRelativePath", instruction.lines.ranges, message)


def used_once(instruction: ins.Instruction, before: tuple[SourceRange, ...] | None, linter: Linter) -> None:
    """Report the earlier of two instructions, because it has no effect."""
    if before is not None:
        message = (
            f"Multiple {instruction.name} instructions should not be used in the same stage because only the last one will "
            "be used"
        )
        linter.report("MultipleInstructionsDisallowed", before, message)


def json_recommended(instruction: ins.Instruction, linter: Linter) -> None:
    message = f"JSON arguments recommended for {instruction.name} to prevent unintended behavior related to OS signals"
    linter.report("JSONArgsRecommended", instruction.lines.ranges, message)


def exposed(specs: Sequence[str], instruction: ins.Expose, linter: Linter) -> None:
    for spec in specs:
        protocol = spec.partition("/")[2]
        if protocol != protocol.lower():
            message = f"Defined protocol '{spec}' in EXPOSE instruction should be lowercase"
            linter.report("ExposeProtoCasing", instruction.lines.ranges, message)
        if ":" in spec:
            message = f"EXPOSE instruction should not define an IP address or host-port mapping, found '{spec}'"
            linter.report("ExposeInvalidFormat", instruction.lines.ranges, message)


def ignored_file(path: str, patterns: IgnorePatterns, instruction: ins.Add | ins.Copy, linter: Linter) -> None:
    """Report a copied file that is ignored. Nothing is checked if the patterns have exceptions, because a file in an ignored
    directory may be an exception."""
    if patterns.has_exceptions:
        return
    cleaned = posixpath.normpath(path)
    if cleaned in (".", "/") and not {"*", "**", "**/*"} & set(patterns.texts):
        return
    if patterns.excludes(cleaned.lstrip("/") or "."):
        verb = "Add" if isinstance(instruction, ins.Add) else "Copy"
        message = f'Attempting to {verb} file "{cleaned}" that is excluded by .dockerignore'
        linter.report("CopyIgnoredFile", instruction.lines.ranges, message)
