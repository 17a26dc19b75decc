"""The variables of every build: platforms, and ARGs before the first FROM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import instructions as ins
from .interface import DockerfileError
from .options import Options
from .outline import ArgInfo
from .platforms import Platform
from .words import Lexer, WordError

__all__ = ["PROXIES", "default_arguments", "global_arguments", "proxies"]

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


def default_arguments(options: Options, target: Platform, target_stage: str) -> dict[str, str]:
    build = options.build_platform
    values = {
        "BUILDPLATFORM": build.full,
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": target.full,
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": target_stage or "default",
    }
    return {name: options.build_args.get(name, value) for name, value in values.items()}


def global_arguments(
    defaults: Mapping[str, str], arguments: Sequence[ins.Arg], build_args: Mapping[str, str], lexer: Lexer
) -> tuple[dict[str, str], dict[str, ArgInfo]]:
    """The values of ARGs before the first FROM, with the defaults, and their descriptions."""
    values = dict(defaults)
    infos: dict[str, ArgInfo] = {}
    for instruction in arguments:
        for pair in instruction.pairs:
            value, needs = pair.value, {}
            if pair.name in build_args:
                value = build_args[pair.name]
            elif value is not None:
                try:
                    expanded = lexer.expand(value, values)
                except WordError as error:
                    raise DockerfileError(str(error), ranges=instruction.lines.ranges) from None
                value, needs = expanded.text, expanded.matched
                if pair.name in needs:
                    old = infos.get(pair.name)
                    needs = {name: None for name in needs if name != pair.name} | dict.fromkeys(old.needs if old else ())
            if value is not None:
                values.pop(pair.name, None)
                values[pair.name] = value
            infos[pair.name] = ArgInfo(pair.name, value, pair.description, instruction.lines.ranges, tuple(needs))
    return values, infos


def proxies(build_args: Mapping[str, str]) -> dict[str, str]:
    """The build arguments that are proxies. Steps get these arguments as environment variables, even without an ARG. Neither
    images nor cache keys contain them."""
    return {name.lower(): build_args[name] for name in sorted(build_args) if name.lower() in PROXIES}
