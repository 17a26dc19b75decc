"""Explains a container: why it ended, does not start, or is unhealthy."""

from __future__ import annotations

from orlop_cli.explain import codes
from orlop_cli.explain.report import Explanation, shell_word
from orlop_cli.values import units
from orlop_cli.values.times import ago, local_rfc3339, parse_nanoseconds

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

__all__ = ["CONTAINER", "Evidence", "PortUse", "explain", "wanted_ports"]

CONTAINER = "container "  # the beginning of a holder of a port that is a container
_SHOWN = 5  # exits, kills and probes in the lists
_PROBE_LINES = 3
_POLICIES = {
    "no": "never restarted by the daemon",
    "always": "restarted after every exit, and when the daemon starts",
    "unless-stopped": "restarted after every exit, until a user stops it",
    "on-failure": "restarted after an exit code other than 0",
}


class PortUse:
    """A host port that the container publishes, and the processes or containers that hold it."""

    def __init__(self, port: int, protocol: str, inner: str, holders: Sequence[str], pids: Sequence[int] = ()) -> None:
        self.port, self.protocol, self.inner, self.holders, self.pids = port, protocol, inner, holders, pids


class Evidence:
    """What was found besides the container's inspect answer."""

    def __init__(
        self,
        events: Sequence[Mapping[str, Any]] = (),
        logs: Sequence[str] = (),
        log_problem: str = "",
        ports: Sequence[PortUse] = (),
    ) -> None:
        self.events, self.logs, self.log_problem, self.ports = events, logs, log_problem, ports


def wanted_ports(found: Mapping[str, Any]) -> list[tuple[int, str, str]]:
    """The host ports that the container asks for: host port, protocol, port in the container. The port that the error of
    the last start names comes first."""
    ports = []
    for inner, bindings in (found["HostConfig"].get("PortBindings") or {}).items():
        protocol = inner.partition("/")[2] or "tcp"
        ports += [(int(one["HostPort"]), protocol, inner) for one in bindings or () if one.get("HostPort", "").isdecimal()]
    failed = codes.held_port(found["State"].get("Error") or "")
    if failed and failed not in [port[:2] for port in ports]:
        ports.insert(0, (*failed, ""))
    return list(dict.fromkeys(ports))


def explain(found: Mapping[str, Any], evidence: Evidence) -> Explanation:
    """The explanation of a container."""
    state = found["State"]
    report = Explanation("Container", found["Name"].removeprefix("/"), found["Id"])
    report.facts = {
        "Status": state["Status"],
        "ExitCode": state["ExitCode"],
        "Error": state.get("Error") or "",
        "OOMKilled": bool(state.get("OOMKilled")),
        "MemoryLimit": found["HostConfig"].get("Memory") or 0,
        "RestartCount": found.get("RestartCount") or 0,
        "Health": (state.get("Health") or {}).get("Status", ""),
        "Ports": [{"Port": use.port, "Protocol": use.protocol, "Pids": list(use.pids)} for use in evidence.ports],
    }
    report.summary = _summary(state, _ended(state))
    _cause(report, found, evidence)
    _ports(report, found, evidence)
    _health(report, state)
    _restarts(report, found, evidence.events)
    if evidence.log_problem:
        report.add("Log", [f"cannot be read: {evidence.log_problem}"])
    report.add("Last log lines", evidence.logs)
    _disk(report, found)
    _next(report, found, evidence)
    return report


def _ended(state: Mapping[str, Any]) -> bool:
    return state["Status"] in ("exited", "dead", "restarting") or (state["Status"] == "created" and bool(state.get("Error")))


def _summary(state: Mapping[str, Any], ended: bool) -> str:
    status, code = state["Status"], state["ExitCode"]
    if state.get("Error") and not state["Running"]:
        return f"does not start (exit code {code})"
    if status == "created":
        return "was created, and has not been started"
    if ended:
        when = ago(state.get("FinishedAt") or "").lower()
        again = "; the daemon starts it again" if status == "restarting" else ""
        return f"exited {when} with exit code {code}: {codes.exit_words(code)}{again}"
    health = (state.get("Health") or {}).get("Status", "none")
    since = ago(state.get("StartedAt") or "").lower().removesuffix(" ago")
    return f"{status} for {since}" + ("" if health == "none" else f", {health}")


def _cause(report: Explanation, found: Mapping[str, Any], evidence: Evidence) -> None:
    state, lines = found["State"], []
    error, limit = state.get("Error") or "", found["HostConfig"].get("Memory") or 0
    if error:
        name, words = codes.start_hint(error)
        report.facts["Cause"] = name
        lines += [words] if words else []
        lines.append(f"Error of the last start: {error}")
    if state.get("OOMKilled"):
        report.facts["Cause"] = "oom"
        lines.append(
            f"The kernel killed a process because the container reached its memory limit, {units.bytes_size(limit)} (OOM)."
            if limit
            else "The kernel killed a process because the machine, or a parent cgroup, had no free memory (OOM). "
            "The container has no memory limit."
        )
    elif _ended(state) and not error:
        lines += _signals(report, state["ExitCode"], evidence.events)
    report.add("Cause", lines)


def _signals(report: Explanation, code: int, events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Who sent the signal: requests to the daemon are events, other senders are not."""
    found = codes.signal_of(code)
    sent = [_attribute(event, "signal") for event in _last_run(events) if event.get("Action") == "kill"]
    if sent and found and sent[-1] == str(found[0]):
        report.facts["Cause"] = "kill"
        if sent[-1] == "9" and len(sent) > 1:
            return [f"A stop request: the program did not end after signal {sent[0]}, so the daemon sent SIGKILL."]
        return [f"A request to the daemon sent signal {found[0]} ({found[1]})."]
    if sent:
        report.facts["Cause"] = "stop"
        return [f"A request to the daemon sent signal {', '.join(sent)}; then the program ended."]
    if found and events:
        report.facts["Cause"] = "signal"
        return [f"No request to the daemon sent signal {found[0]} ({found[1]}): the program, the kernel or a user sent it."]
    return []


def _last_run(events: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The events between the last two exits."""
    exits = [at for at, event in enumerate(events) if event.get("Action") == "die"]
    if not exits:
        return events
    return events[exits[-2] + 1 if len(exits) > 1 else 0 : exits[-1] + 1]


def _attribute(event: Mapping[str, Any], name: str) -> str:
    return str(((event.get("Actor") or {}).get("Attributes") or {}).get(name, ""))


def _ports(report: Explanation, found: Mapping[str, Any], evidence: Evidence) -> None:
    lines = []
    for use in evidence.ports:
        target = f" (for {use.inner} of the container)" if use.inner else ""
        if use.holders:
            lines += [f"port {use.port} is held by {holder}{target}" for holder in use.holders]
        elif not found["State"]["Running"]:
            lines.append(f"port {use.port} is not held by a process that this client can see{target}")
        else:
            lines.append(f"port {use.port} is published by this container{target}")
    report.add("Ports", lines)


def _health(report: Explanation, state: Mapping[str, Any]) -> None:
    health = state.get("Health") or {}
    if health.get("Status", "none") == "none":
        return
    lines = [f"{health['Status']}; {health.get('FailingStreak', 0)} failures in a row"]
    for probe in (health.get("Log") or [])[-_SHOWN:]:
        output = (probe.get("Output") or "").strip().splitlines() or ["(no output)"]
        lines.append(f"{_clock(probe['Start'])} exit code {probe['ExitCode']}: {output[0]}")
        lines += [f"  {line}" for line in output[1:_PROBE_LINES]]
    report.add("Health", lines)


def _clock(stamp: str) -> str:
    """The local time of day of a timestamp."""
    return local_rfc3339(parse_nanoseconds(stamp))[11:19]


def _restarts(report: Explanation, found: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
    policy = found["HostConfig"].get("RestartPolicy") or {}
    name = policy.get("Name") or "no"
    most, count = policy.get("MaximumRetryCount") or 0, found.get("RestartCount") or 0
    exits = [event for event in events if event.get("Action") == "die"]
    if name == "no" and len(exits) < 2:
        return
    text = f"policy {name}: {_POLICIES.get(name, name)}" + (f", at most {most} times" if most else "")
    lines = [text, f"restarted {count} time{'' if count == 1 else 's'} by the policy"]
    if most and count >= most and not found["State"]["Running"]:
        lines.append("the policy allows no more restarts")
    for event in exits[-_SHOWN:]:
        code, ran = _attribute(event, "exitCode"), _attribute(event, "execDuration")
        lines.append(f"{local_rfc3339(event['timeNano'])[:19]} exit code {code}" + (f" after {ran} s" if ran else ""))
    report.add("Restarts", lines)


def _disk(report: Explanation, found: Mapping[str, Any]) -> None:
    size = found.get("SizeRw")
    lines = [f"{units.human_size(size)} in files that the container has changed"] if size else []
    volumes = [mount for mount in found.get("Mounts") or [] if mount.get("Type") == "volume"]
    lines += [f"volume {mount.get('Name', '')} at {mount['Destination']}" for mount in volumes]
    report.facts["SizeRw"] = size or 0
    report.add("Disk", lines)


def _next(report: Explanation, found: Mapping[str, Any], evidence: Evidence) -> None:
    name, image = shell_word(report.name), shell_word(found["Config"]["Image"])
    state, cause = found["State"], report.facts.get("Cause")
    limit = found["HostConfig"].get("Memory") or 0
    if cause == "oom" and limit:
        report.suggest(f"orlop update -m {2 * limit} --memory-swap {4 * limit} {name}", "twice the memory limit")
    by_cause = {
        "command": (f"orlop inspect -f '{{{{.Path}}}} {{{{json .Args}}}}' {name}", "the command that was run"),
        "mode": (f"orlop inspect -f '{{{{.Path}}}} {{{{.Config.User}}}}' {name}", "the command and the user"),
        "format": (f"orlop image inspect -f '{{{{.Os}}}}/{{{{.Architecture}}}}' {image}", "the platform of the image"),
        "disk": ("orlop system df", "what holds the disk space"),
        "user": (f"orlop inspect -f '{{{{.Config.User}}}}' {name}", "the user that was asked for"),
        "network": ("orlop network ls", "the networks that exist"),
        "mount": (f"orlop inspect -f '{{{{json .HostConfig.Binds}}}} {{{{json .HostConfig.Mounts}}}}' {name}", "the mounts"),
        "joined": (f"orlop inspect -f '{{{{.HostConfig.NetworkMode}}}}' {name}", "the other container"),
        "runtime": ("orlop info -f '{{json .Runtimes}}'", "the runtimes of the daemon"),
    }
    if cause in by_cause:
        report.suggest(*by_cause[cause])
    for use in evidence.ports:
        if use.pids and use.pids[0]:
            report.suggest(f"ps -fp {use.pids[0]}", f"the process that holds port {use.port}")
        elif use.holders and use.holders[0].startswith(CONTAINER):
            report.suggest(f"orlop stop {use.holders[0].removeprefix(CONTAINER)}", f"free port {use.port}")
    if report.facts["Health"] == "unhealthy":
        report.suggest(f"orlop inspect -f '{{{{json .Config.Healthcheck}}}}' {name}", "the command of the health check")
    if state.get("Paused"):
        report.suggest(f"orlop unpause {name}", "let the processes run")
    elif not state["Running"]:
        report.suggest(f"orlop start {name}", "start the container")
    if not state.get("Error") and state["Status"] != "created":
        report.suggest(f"orlop logs --tail 100 {name}", "more of the log")
