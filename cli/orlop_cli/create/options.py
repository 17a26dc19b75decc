"""The flags that `run` and `create` share: the flags of Docker for one Linux host."""

from __future__ import annotations

from orlop_cli._command import flag, many, option
from orlop_cli.values.types import BYTES, CPUS, DURATION, INT, SWAP

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Function = Callable[..., Any]
    Decorator = Callable[[Function], Function]


STREAMS, NAMES, FILES = "Streams and process", "Identity and environment", "Storage"
NET, LIMITS, HEALTH, SECURITY, LOGS = "Network", "Resources", "Health check", "Security and namespaces", "Logging"
DRY = "Dry run"


def _text(*names: str, section: str, help: str, **kwargs: Any) -> Decorator:
    return option(*names, section=section, help=help, metavar=kwargs.pop("metavar", "string"), **kwargs)


_PROCESS: list[Decorator] = [
    many("-a", "--attach", section=STREAMS, help="Attach to STDIN, STDOUT or STDERR"),
    flag("-i", "--interactive", section=STREAMS, help="Keep STDIN open even if not attached"),
    flag("-t", "--tty", section=STREAMS, help="Allocate a pseudo-TTY"),
    _text("--entrypoint", section=STREAMS, help="Overwrite the default ENTRYPOINT of the image"),
    _text("-w", "--workdir", section=STREAMS, help="Working directory inside the container"),
    _text("-u", "--user", section=STREAMS, help="Username or UID (format: <name|uid>[:<group|gid>])"),
    many("--group-add", section=STREAMS, help="Add additional groups to join"),
    flag(
        "--init",
        section=STREAMS,
        default=None,
        help="Run an init inside the container that forwards signals and reaps processes",
    ),
    _text("--stop-signal", section=STREAMS, help="Signal to stop the container"),
    option("--stop-timeout", section=STREAMS, type=INT, help="Timeout (in seconds) to stop a container"),
    _text("--restart", section=STREAMS, default="no", help="no, on-failure[:N], always or unless-stopped (default no)"),
    flag("--rm", "remove", section=STREAMS, help="Remove the container and its anonymous volumes when it exits"),
]

_IDENTITY: list[Decorator] = [
    _text("--name", section=NAMES, help="Assign a name to the container"),
    many("-e", "--env", section=NAMES, help="Set environment variables (KEY alone passes the client's value)"),
    many("--env-file", section=NAMES, help="Read in a file of environment variables"),
    many("-l", "--label", section=NAMES, help="Set meta data on a container"),
    many("--label-file", section=NAMES, help="Read in a line delimited file of labels"),
    many("--annotation", section=NAMES, metavar="map", help="Add an annotation for the OCI runtime"),
    _text("-h", "--hostname", section=NAMES, help="Container host name"),
    _text("--domainname", section=NAMES, help="Container NIS domain name"),
    _text("--cidfile", section=NAMES, help="Write the container ID to the file"),
    _text("--platform", section=NAMES, envvar="DOCKER_DEFAULT_PLATFORM", help="Platform if the image has several (os/arch)"),
    _text("--pull", section=NAMES, default="missing", metavar="always|missing|never", help="Pull image before creating"),
    flag("-q", "--quiet", section=NAMES, help="Suppress the pull output"),
]

_DRY: list[Decorator] = [
    flag("--dry-run", section=DRY, help="Show what would be made, and make nothing"),
    _text("--format", "form", section=DRY, help="Format of --dry-run: 'json' includes the OCI spec (default: text)"),
]

_FILES: list[Decorator] = [
    many("-v", "--volume", section=FILES, help="Bind mount a path or a named volume (SOURCE:PATH[:ro])"),
    many("--mount", section=FILES, metavar="mount", help="Attach a filesystem (type=bind|volume|tmpfs,source=,target=,...)"),
    many("--tmpfs", section=FILES, help="Mount a tmpfs directory (PATH[:OPTIONS])"),
    many("--volumes-from", section=FILES, help="Mount volumes from the specified container(s)"),
    _text("--volume-driver", section=FILES, help="Optional volume driver for the container"),
    flag("--read-only", section=FILES, help="Mount the container's root filesystem as read only"),
    many("--storage-opt", section=FILES, help="Storage driver options for the container"),
    option("--shm-size", section=FILES, type=BYTES, help="Size of /dev/shm"),
]

_NET: list[Decorator] = [
    many(
        "--network",
        "--net",
        "network",
        section=NET,
        metavar="network",
        help="Connect to a network (name, or name=,alias=,ip=...)",
    ),
    many("-p", "--publish", section=NET, help="Publish a port to the host ([IP:][HOST:]PORT[/PROTO])"),
    flag("-P", "--publish-all", section=NET, help="Publish all exposed ports to random ports"),
    many("--expose", section=NET, help="Expose a port or a range of ports"),
    many("--network-alias", "--net-alias", "network_alias", section=NET, help="Network-scoped alias of the container"),
    many("--link", section=NET, help="Add link to another container"),
    many("--add-host", section=NET, help="Add a custom host-to-IP mapping (host:ip)"),
    many("--dns", section=NET, help="Set custom DNS servers"),
    many("--dns-option", "--dns-opt", "dns_option", section=NET, help="Set DNS options"),
    many("--dns-search", section=NET, help="Set custom DNS search domains"),
    _text("--ip", section=NET, help="IPv4 address (e.g., 172.30.100.104)"),
    _text("--ip6", section=NET, help="IPv6 address (e.g., 2001:db8::33)"),
    many("--link-local-ip", section=NET, help="Link-local addresses"),
    _text("--mac-address", section=NET, help="MAC address (e.g., 92:d0:c6:0a:29:33)"),
]

_LIMITS: list[Decorator] = [
    option("-m", "--memory", section=LIMITS, type=BYTES, help="Memory limit"),
    option("--memory-reservation", section=LIMITS, type=BYTES, help="Memory soft limit"),
    option("--memory-swap", section=LIMITS, type=SWAP, help="Swap limit equal to memory plus swap: -1 for unlimited swap"),
    option("--memory-swappiness", section=LIMITS, type=INT, help="Tune memory swappiness (0 to 100)"),
    option("--cpus", section=LIMITS, type=CPUS, help="Number of CPUs"),
    option("-c", "--cpu-shares", section=LIMITS, type=INT, help="CPU shares (relative weight)"),
    option("--cpu-period", section=LIMITS, type=INT, help="Limit CPU CFS period"),
    option("--cpu-quota", section=LIMITS, type=INT, help="Limit CPU CFS quota"),
    option("--cpu-rt-period", section=LIMITS, type=INT, help="Limit CPU real-time period in microseconds"),
    option("--cpu-rt-runtime", section=LIMITS, type=INT, help="Limit CPU real-time runtime in microseconds"),
    _text("--cpuset-cpus", section=LIMITS, help="CPUs in which to allow execution (0-3, 0,1)"),
    _text("--cpuset-mems", section=LIMITS, help="MEMs in which to allow execution (0-3, 0,1)"),
    option("--pids-limit", section=LIMITS, type=INT, help="Tune container pids limit (set -1 for unlimited)"),
    many("--ulimit", section=LIMITS, metavar="ulimit", help="Ulimit options (name=soft[:hard])"),
    flag("--oom-kill-disable", section=LIMITS, help="Disable OOM Killer"),
    option("--oom-score-adj", section=LIMITS, type=INT, help="Tune host's OOM preferences (-1000 to 1000)"),
    option("--blkio-weight", section=LIMITS, type=INT, help="Block IO weight, between 10 and 1000"),
    many("--blkio-weight-device", section=LIMITS, help="Block IO weight of a device (PATH:WEIGHT)"),
    many("--device-read-bps", section=LIMITS, help="Limit read rate (bytes per second) from a device"),
    many("--device-read-iops", section=LIMITS, help="Limit read rate (IO per second) from a device"),
    many("--device-write-bps", section=LIMITS, help="Limit write rate (bytes per second) to a device"),
    many("--device-write-iops", section=LIMITS, help="Limit write rate (IO per second) to a device"),
    _text("--cgroup-parent", section=LIMITS, help="Optional parent cgroup for the container"),
]

_HEALTH: list[Decorator] = [
    _text("--health-cmd", section=HEALTH, help="Command to run to check health"),
    option("--health-interval", section=HEALTH, type=DURATION, help="Time between running the check (ms|s|m|h)"),
    option("--health-retries", section=HEALTH, type=INT, help="Consecutive failures needed to report unhealthy"),
    option("--health-timeout", section=HEALTH, type=DURATION, help="Maximum time to allow one check to run"),
    option(
        "--health-start-period", section=HEALTH, type=DURATION, help="Time after the start in which failures do not count"
    ),
    option("--health-start-interval", section=HEALTH, type=DURATION, help="Time between checks during the start period"),
    flag("--no-healthcheck", section=HEALTH, help="Disable any container-specified HEALTHCHECK"),
]

_SECURITY: list[Decorator] = [
    many("--cap-add", section=SECURITY, help="Add Linux capabilities"),
    many("--cap-drop", section=SECURITY, help="Drop Linux capabilities"),
    flag("--privileged", section=SECURITY, help="Give extended privileges to the container"),
    many("--security-opt", section=SECURITY, help="Security options (seccomp=FILE, no-new-privileges, ...)"),
    many("--device", section=SECURITY, help="Add a host device to the container (HOST[:CONTAINER[:rwm]])"),
    many("--device-cgroup-rule", section=SECURITY, help="Add a rule to the cgroup allowed devices list"),
    _text("--gpus", section=SECURITY, help="GPU devices to add to the container ('all' to pass all GPUs)"),
    many("--sysctl", section=SECURITY, metavar="map", help="Sysctl options"),
    _text("--pid", section=SECURITY, help="PID namespace to use"),
    _text("--ipc", section=SECURITY, help="IPC mode to use"),
    _text("--uts", section=SECURITY, help="UTS namespace to use"),
    _text("--userns", section=SECURITY, help="User namespace to use"),
    _text("--cgroupns", section=SECURITY, help="Cgroup namespace to use (host|private)"),
    _text("--runtime", section=SECURITY, help="Runtime to use for this container"),
    _text("--isolation", section=SECURITY, help="Container isolation technology"),
]

# Flags of docker that have no effect on Linux, or that have lost their effect.
_IGNORED: list[Decorator] = [
    option("--cpu-count", type=INT, hidden=True, help="Accepted and ignored: for Windows"),
    option("--cpu-percent", type=INT, hidden=True, help="Accepted and ignored: for Windows"),
    flag("--disable-content-trust", default=True, hidden=True, help="Accepted and ignored"),
    option("--io-maxbandwidth", type=BYTES, hidden=True, help="Accepted and ignored: for Windows"),
    option("--io-maxiops", type=INT, hidden=True, help="Accepted and ignored: for Windows"),
    option("--kernel-memory", type=BYTES, hidden=True, help="Accepted and ignored: Linux has no such limit any more"),
]

_LOGS: list[Decorator] = [
    _text("--log-driver", section=LOGS, help="Logging driver for the container"),
    many("--log-opt", section=LOGS, help="Log driver options"),
]


def create_options(function: Function) -> Function:
    """Add all these flags to a command."""
    for add in reversed([*_PROCESS, *_IDENTITY, *_FILES, *_NET, *_LIMITS, *_HEALTH, *_SECURITY, *_LOGS, *_DRY, *_IGNORED]):
        function = add(function)
    return function
