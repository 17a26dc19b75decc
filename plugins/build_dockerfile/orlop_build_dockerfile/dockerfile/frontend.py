"""The Dockerfile frontend. It converts a client's request to a graph and an image for each platform."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from . import subrequests
from .build_instructions import read_stages
from .context import Contexts
from .convert import PlatformConversion
from .directives import find_syntax
from .interface import Conversion, Converted, DockerfileError, OtherFrontend, PlatformResult, Request, SourceFile, Warned
from .limits import Budget
from .lint import Finding
from .llb import head
from .options import Options, read_options
from .parser import parse
from .references import parse_reference
from .together import Steps, together

__all__ = ["convert"]

_BUILD_ONLY = ("", "frontend.lint", "frontend.outline", "frontend.targets", "frontend.subrequests.describe")


def convert(request: Request) -> Conversion:
    """See the module `interface`."""
    options = read_options(request)
    contexts = Contexts(request, options)
    yield from contexts.detect()
    source = yield from contexts.read_dockerfile()
    try:
        named = _named_frontend(options, source)
        if named is not None and not _is_ours(named.image):
            return named
        converted = yield from _convert(request, options, contexts, source)
        return msgspec.structs.replace(converted, syntax=named.image) if named is not None else converted
    except DockerfileError as error:
        error.source = error.source or source
        raise


def _named_frontend(options: Options, source: SourceFile) -> OtherFrontend | None:
    """The frontend image in the Dockerfile's `# syntax=`; None if it is "docker/dockerfile:1" or a later version, because
    this frontend is then used."""
    if "cmdline" in options.raw:
        return None  # a `# syntax=` has chosen this frontend already
    named = options.raw.get("build-arg:BUILDKIT_SYNTAX")
    found = find_syntax(source.data.decode("utf-8", "surrogateescape")) if named is None else None
    line = found.value if found else (named or "").strip()
    if not line:
        return None
    image = line.split()[0]
    given = {**options.raw, "cmdline": line, "source": image}
    return OtherFrontend(image, given, source, found.ranges if found else ())


def _is_ours(image: str) -> bool:
    try:
        reference = parse_reference(image)
    except ValueError:
        return False
    if (reference.domain, reference.path) not in (
        ("docker.io", "docker/dockerfile"),
        ("docker.io", "docker/dockerfile-upstream"),
    ):
        return False
    tag = reference.tag or "latest"
    return tag in ("latest", "labs", "master", "experimental") or tag.split(".", 1)[0].split("-", 1)[0] == "1"


def _convert(request: Request, options: Options, contexts: Contexts, source: SourceFile) -> Steps[Converted]:
    asked = options.raw.get("requestid", "")
    if asked not in _BUILD_ONLY:
        raise DockerfileError(f"unsupported request {asked}", code=12)
    budget = Budget()
    if asked == "frontend.subrequests.describe":
        return Converted((), metadata=subrequests.describe())
    if asked == "frontend.targets":
        text = source.data.decode("utf-8", "surrogateescape")
        return Converted((), metadata=subrequests.targets(source, read_stages(parse(text, budget).nodes, budget)))
    platforms = options.targets or (None,)
    if asked:
        platforms = platforms[:1]
    conversions = [
        PlatformConversion(
            source,
            options,
            contexts,
            platform,
            budget,
            all_stages=asked == "frontend.lint" and not options.target,
            created=request.created,
        )
        for platform in platforms
    ]
    if asked == "frontend.lint":
        return (yield from _lint(source, conversions[0]))
    try:
        results = yield from _run_all(conversions)
    except DockerfileError as error:
        error.warnings = _warnings(source, conversions[0])
        raise
    if asked == "frontend.outline":
        target = conversions[0].target
        assert target is not None
        return Converted((), metadata=subrequests.outline(source, target))
    return Converted(tuple(results), _warnings(source, conversions[0]), options.multi_platform)


def _run_all(conversions: Sequence[PlatformConversion]) -> Steps[list[PlatformResult]]:
    return (yield from together([conversion.run() for conversion in conversions]))


def _lint(source: SourceFile, conversion: PlatformConversion) -> Steps[Converted]:
    error: DockerfileError | None = None
    try:
        yield from conversion.run()
    except DockerfileError as found:
        error = found
    return Converted((), metadata=subrequests.lint(source, list(conversion.linter.found), error))


def _warnings(source: SourceFile, conversion: PlatformConversion) -> tuple[Warned, ...]:
    """The warnings of the first platform. Conversions for other platforms find the same warnings."""
    return tuple(_warned(finding, source) for finding in conversion.linter.found)


def _warned(finding: Finding, source: SourceFile) -> Warned:
    rule = finding.rule
    line = finding.ranges[0].start.line if finding.ranges else 0
    short = f"{rule.name}: {finding.message}" + (f" (line {line})" if line else "")
    vertex = head(source.definition) if source.definition is not None else ""
    return Warned(rule.name, short, (rule.description,), rule.url, source, finding.ranges, vertex)
