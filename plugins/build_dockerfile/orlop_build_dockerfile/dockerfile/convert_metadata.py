"""Converts instructions that only change the image's configuration."""

from __future__ import annotations

from . import checks
from . import instructions as ins
from .builder import StageBuilder
from .goformat import duration, map_keys, quote_list, quote_rune, words
from .outline import ArgInfo
from .ports import parse_ports
from .scans import SCAN_ARGUMENTS
from .signals import is_signal

__all__ = ["convert_arg", "convert_env", "convert_metadata"]


def convert_metadata(builder: StageBuilder, instruction: ins.Instruction) -> None:
    """Apply an instruction that only changes the image's configuration."""
    match instruction:
        case ins.Label():
            _label(builder, instruction)
        case ins.Maintainer():
            builder.image.data["author"] = instruction.maintainer
            builder.record(f"MAINTAINER {instruction.maintainer}")
        case ins.Onbuild():
            builder.image.config.setdefault("OnBuild", []).append(instruction.expression)
        case ins.Cmd():
            _cmd(builder, instruction)
        case ins.Entrypoint():
            _entrypoint(builder, instruction)
        case ins.Healthcheck():
            _healthcheck(builder, instruction)
        case ins.Expose():
            _expose(builder, instruction)
        case ins.User():
            builder.state.user = builder.expand(instruction.user, instruction)
            builder.image.set_or_remove("User", builder.state.user)
            builder.record(f"USER {builder.state.user}")
        case ins.Volume():
            _volume(builder, instruction)
        case ins.Stopsignal():
            _stopsignal(builder, instruction)
        case ins.Shell():
            builder.image.config["Shell"] = list(instruction.shell)
            builder.record(f"SHELL {words(instruction.shell)}")
        case _:
            raise AssertionError(instruction)


def convert_env(builder: StageBuilder, env: ins.Env) -> None:
    # BuildKit expands all pairs before it sets the first one, so `b` does not get the new value of `a` in `ENV a=1 b=$a`
    pairs = [(builder.expand(p.name, env), builder.expand(p.value, env), p.legacy) for p in env.pairs]
    for name, value, legacy in pairs:
        if legacy:
            checks.legacy_format(env, builder.linter)
        checks.secret_name("ENV", name, env, builder.linter)
        builder.set_variable(name, value)
        builder.image.set_env(name, value)
    builder.record("ENV " + " ".join(f"{name}={value}" for name, value, _ in pairs))


def convert_arg(builder: StageBuilder, arg: ins.Arg) -> None:
    given = builder.options.build_args
    shown = []
    for pair in arg.pairs:
        checks.secret_name("ARG", pair.name, arg, builder.linter)
        value, inherited = pair.value, False
        if pair.name in given:
            value = given[pair.name]
        elif value is not None:
            value = builder.expand(value, arg)
        elif pair.name in builder.setting.arguments:
            value, inherited = builder.setting.arguments[pair.name], True
        if value is not None and pair.name not in SCAN_ARGUMENTS:
            builder.set_variable(pair.name, value)
        outline = builder.state.outline
        if not inherited:
            outline.args[pair.name] = ArgInfo(pair.name, value, pair.description, arg.lines.ranges)
        outline.used.add(pair.name)
        builder.state.args[pair.name] = value
        builder.state.declared.add(pair.name)
        # As in BuildKit 0.13, the history contains the default, not the client's value
        shown.append(pair.name if pair.value is None else f"{pair.name}={builder.expand(pair.value, arg)}")
    builder.record("ARG " + " ".join(shown))


def _label(builder: StageBuilder, label: ins.Label) -> None:
    pairs = [(builder.expand(p.name, label), builder.expand(p.value, label), p.legacy) for p in label.pairs]
    labels = dict(builder.image.config.get("Labels") or {})
    for name, value, legacy in pairs:
        if legacy:
            checks.legacy_format(label, builder.linter)
        labels[name] = value
    builder.image.config["Labels"] = labels
    builder.record("LABEL " + " ".join(f"{name}={value}" for name, value, _ in pairs))


def _used_once(builder: StageBuilder, instruction: ins.Instruction) -> None:
    kind = type(instruction).__name__
    checks.used_once(instruction, builder.state.last.get(kind), builder.linter)
    builder.state.last[kind] = instruction.lines.ranges


def _command_line(builder: StageBuilder, instruction: ins.Cmd | ins.Entrypoint) -> list[str]:
    _used_once(builder, instruction)
    command = instruction.command
    if not command.shell:
        return list(command.words)
    if not builder.image.config.get("Shell"):
        checks.json_recommended(instruction, builder.linter)
    return builder.with_shell(" ".join(command.words))


def _cmd(builder: StageBuilder, cmd: ins.Cmd) -> None:
    line = _command_line(builder, cmd)
    builder.image.set_or_remove("Cmd", line)
    builder.image.config["ArgsEscaped"] = True
    builder.record(f"CMD {quote_list(line)}")


def _entrypoint(builder: StageBuilder, entrypoint: ins.Entrypoint) -> None:
    line = _command_line(builder, entrypoint)
    builder.image.set_or_remove("Entrypoint", line)
    if "Cmd" not in builder.state.last:
        builder.image.config.pop("Cmd", None)
    builder.record(f"ENTRYPOINT {quote_list(line)}")


def _healthcheck(builder: StageBuilder, healthcheck: ins.Healthcheck) -> None:
    _used_once(builder, healthcheck)
    health = healthcheck.health
    times = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    numbers = {name: value for name, value in (times | {"Retries": health.retries}).items() if value}
    builder.image.config["Healthcheck"] = {"Test": list(health.test)} | numbers
    shown = " ".join(f'"{duration(value)}"' for value in times.values())
    builder.record(f"HEALTHCHECK &{{{quote_list(health.test)} {shown} {quote_rune(health.retries)}}}")


def _expose(builder: StageBuilder, expose: ins.Expose) -> None:
    specs = []
    for port in expose.ports:
        found = builder.setting.lexer.expand(port, builder.state.env)
        checks.variables(found.unmatched, builder.state.declared, builder.state.env, expose, builder.linter)
        specs += found.words
    ports = [port for spec in specs for port in parse_ports(spec)]
    checks.exposed(specs, expose, builder.linter)
    builder.setting.lexer.budget.spend(200 * len(ports))
    builder.image.config["ExposedPorts"] = {**(builder.image.config.get("ExposedPorts") or {}), **{p: {} for p in ports}}
    builder.record(f"EXPOSE {map_keys(dict.fromkeys(ports))}")


def _volume(builder: StageBuilder, volume: ins.Volume) -> None:
    paths = [builder.expand(path, volume) for path in volume.paths]
    if not all(paths):
        raise ValueError("VOLUME specified can not be an empty string")
    builder.image.config["Volumes"] = {**(builder.image.config.get("Volumes") or {}), **{path: {} for path in paths}}
    builder.record(f"VOLUME {words(paths)}")


def _stopsignal(builder: StageBuilder, stopsignal: ins.Stopsignal) -> None:
    signal = builder.expand(stopsignal.signal, stopsignal)
    if not is_signal(signal):
        raise ValueError(f"invalid signal: {signal}")
    builder.image.config["StopSignal"] = signal
    builder.record(f"STOPSIGNAL {signal}")
