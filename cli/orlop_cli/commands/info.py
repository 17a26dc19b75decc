"""`orlop info`."""

from __future__ import annotations

import os
import sys

from orlop_cli import __version__
from orlop_cli._command import command, complain, option
from orlop_cli._errors import CliError, Exit
from orlop_cli.tables.format import render_values
from orlop_cli.values.units import bytes_size

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session

    Info = dict[str, Any]


Lines = list[str]

_LIMITS = (
    ("MemoryLimit", "No memory limit support"),
    ("SwapLimit", "No swap limit support"),
    ("CpuCfsPeriod", "No cpu cfs period support"),
    ("CpuCfsQuota", "No cpu cfs quota support"),
    ("CPUShares", "No cpu shares support"),
    ("CPUSet", "No cpuset support"),
    ("PidsLimit", "No pids limit support"),
    ("IPv4Forwarding", "IPv4 forwarding is disabled"),
)


def pretty(info: Info) -> str:
    """The Server block in Docker's layout. Lines about values that the daemon does not report are omitted."""
    lines: Lines = []
    for section in (_counts, _storage, _plugins, _swarm, _runtimes, _security, _host, _proxies, _registries, _tail):
        lines += section(info)
    return "".join(f" {line}\n" for line in lines)


def _given(info: Info, *pairs: tuple[str, str]) -> Lines:
    return [f"{title}: {info[key]}" for title, key in pairs if info.get(key) not in (None, "")]


def _counts(info: Info) -> Lines:
    return [
        f"Containers: {info.get('Containers', 0)}",
        *(f" {state}: {info.get(f'Containers{state}', 0)}" for state in ("Running", "Paused", "Stopped")),
        f"Images: {info.get('Images', 0)}",
        f"Server Version: {info.get('ServerVersion', '')}",
    ]


def _storage(info: Info) -> Lines:
    lines = _given(info, ("Storage Driver", "Driver"))
    lines += [f" {key}: {value}" for key, value in info.get("DriverStatus") or []]
    return lines + _given(
        info, ("Logging Driver", "LoggingDriver"), ("Cgroup Driver", "CgroupDriver"), ("Cgroup Version", "CgroupVersion")
    )


def _plugins(info: Info) -> Lines:
    plugins = info.get("Plugins") or {}
    lines = [f" {kind}: {' '.join(plugins.get(kind) or [])}" for kind in ("Volume", "Network", "Log")]
    if plugins.get("Authorization"):
        lines.append(f" Authorization: {' '.join(plugins['Authorization'])}")
    return ["Plugins:", *lines]


def _swarm(info: Info) -> Lines:
    state = (info.get("Swarm") or {}).get("LocalNodeState")
    directories = info.get("CDISpecDirs") or []
    found = ["CDI spec directories:", *(f" {directory}" for directory in directories)] if directories else []
    return [*found, *([f"Swarm: {state}"] if state else [])]


def _runtimes(info: Info) -> Lines:
    lines = [f"Runtimes: {' '.join(sorted(info['Runtimes']))}"] if info.get("Runtimes") else []
    lines += _given(info, ("Default Runtime", "DefaultRuntime"), ("Init Binary", "InitBinary"))
    for title, key in (("containerd", "ContainerdCommit"), ("runc", "RuncCommit"), ("init", "InitCommit")):
        commit = (info.get(key) or {}).get("ID")
        if commit and commit != "N/A":
            lines.append(f"{title} version: {commit}")
    return lines


def _security(info: Info) -> Lines:
    options = info.get("SecurityOptions") or []
    if not options:
        return []
    lines = ["Security Options:"]
    for option_text in options:
        fields = dict(part.partition("=")[::2] for part in option_text.split(","))
        lines.append(f" {fields.pop('name', option_text)}")
        lines += [f"  {key.capitalize()}: {value}" for key, value in fields.items()]
    return lines


def _host(info: Info) -> Lines:
    lines = _given(
        info,
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
    )
    lines.append(f"Total Memory: {bytes_size(info.get('MemTotal') or 0)}")
    lines += _given(info, ("Name", "Name"), ("ID", "ID"), ("Docker Root Dir", "DockerRootDir"))
    lines.append(f"Debug Mode: {_bool(info.get('Debug'))}")
    if info.get("Debug"):
        lines += [f" {title}" for title in _given(info, ("File Descriptors", "NFd"), ("Goroutines", "NGoroutines"))]
        lines += [
            f" {title}" for title in _given(info, ("System Time", "SystemTime"), ("EventsListeners", "NEventsListener"))
        ]
    return lines


def _proxies(info: Info) -> Lines:
    return _given(info, ("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy"))


def _registries(info: Info) -> Lines:
    lines = [" " + label for label in info.get("Labels") or []]
    lines = ["Labels:", *lines] if lines else []
    lines.append(f"Experimental: {_bool(info.get('ExperimentalBuild'))}")
    registry = info.get("RegistryConfig") or {}
    insecure = [name for name, index in (registry.get("IndexConfigs") or {}).items() if not index.get("Secure", True)]
    insecure += registry.get("InsecureRegistryCIDRs") or []
    if insecure:
        lines += ["Insecure Registries:", *(f" {name}" for name in insecure)]
    if registry.get("Mirrors"):
        lines += ["Registry Mirrors:", *(f" {name}" for name in registry["Mirrors"])]
    return lines


def _tail(info: Info) -> Lines:
    lines = [f"Live Restore Enabled: {_bool(info.get('LiveRestoreEnabled'))}"]
    lines += _given(info, ("Product License", "ProductLicense"), ("Isolation", "Isolation"))
    pools = info.get("DefaultAddressPools") or []
    if pools:
        lines += ["Default Address Pools:", *(f"  Base: {pool['Base']}, Size: {pool['Size']}" for pool in pools)]
    return lines


def _bool(value: Any) -> str:
    return "true" if value else "false"


def warnings(info: Info) -> list[str]:
    """The daemon's warnings, and the warnings that the client makes for older daemons."""
    if info.get("Warnings") is not None:
        return list(info["Warnings"])
    return [f"WARNING: {text}" for key, text in _LIMITS if info.get(key) is False]


def _client(session: Session) -> Info:
    """The client block of Docker's `info`, with the daemon's address added."""
    return {
        "Debug": bool(os.environ.get("DEBUG")),
        "Version": __version__,
        "Context": "default",
        "Plugins": [],
        "Warnings": None,
        "Host": session.address.text,
    }


@command(
    "info", "Display system-wide information", examples=["orlop info", "orlop info -f '{{.Driver}} {{.ServerVersion}}'"]
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
def info(session: Session, args: tuple[str, ...], form: str | None) -> None:
    client = _client(session)
    try:
        found: Info = session.engine.get("/info")
    except CliError as error:
        found = {}
        problem: CliError | None = error
    else:
        problem = None
    if form:
        sys.stdout.write(render_values([{**found, "ClientInfo": client}], form))
    else:
        print("Client: Orlop")
        for title, key in (("Version", "Version"), ("Context", "Context"), ("Host", "Host")):
            print(f" {title + ':':<11} {client[key]}")
        print(f" Debug Mode: {_bool(client['Debug'])}\n\nServer:")
        sys.stdout.write(pretty(found) if found else "")
    if problem:
        complain(problem)
        raise Exit(1)
    sys.stdout.flush()
    for text in warnings(found):
        print(text, file=sys.stderr)
