"""The engine's flags of `orlopd`, under dockerd's names, and the forms of their values. This module does no I/O."""

from __future__ import annotations

from typing import Any

from orlop_kernel.config.flags import BOOL, INT, LIST, MAP, STRING, Flag, Kind, flag
from orlop_kernel.config.values import key_value, parse_bool

__all__ = ["FLAGS", "ULIMITS", "parse_ulimit"]

ULIMITS = frozenset(
    {
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    }
)


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """Parse `nofile=1024:2048` to (name, soft, hard). `nofile=1024` sets both limits; -1 means unlimited (go-units
    ParseUlimit). Raises ValueError."""
    name, value = key_value(text)
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft_text, colon, hard_text = value.partition(":")
    try:
        soft = int(soft_text)
        hard = int(hard_text) if colon else soft
    except ValueError:
        raise ValueError(f"invalid ulimit: {text}: limits are whole numbers") from None
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return name, soft, hard


def _runtime(text: str) -> dict[str, Any]:
    name, path = key_value(text)
    return {name: {"path": path}}


def _ulimit(text: str) -> dict[str, Any]:
    name, soft, hard = parse_ulimit(text)
    return {name: {"Name": name, "Hard": hard, "Soft": soft}}


def _pool(text: str) -> list[dict[str, Any]]:
    fields = dict(key_value(part) for part in text.split(","))
    if set(fields) != {"base", "size"}:
        raise ValueError(f'"{text}" is not of the form base=SUBNET,size=PREFIX')
    return [{"base": fields["base"], "size": INT.parse(fields["size"])}]


def _feature(text: str) -> dict[str, bool]:
    name, equals, value = text.partition("=")
    return {name: parse_bool(value) if equals else True}


def _network_option(text: str) -> dict[str, dict[str, str]]:
    driver, option = key_value(text)
    return {driver: MAP.parse(option)}


RUNTIME = Kind("runtime", _runtime)
ULIMIT = Kind("ulimit", _ulimit)
POOL = Kind("pool", _pool)
FEATURE = Kind("feature", _feature)
NETOPT = Kind("netopt", _network_option)

FLAGS: tuple[Flag, ...] = (
    flag("add-runtime", RUNTIME, "Register an additional OCI runtime: name=path", key="runtimes"),
    flag("allow-direct-routing", BOOL, "Accepted and ignored", hidden=True),
    flag("bip", STRING, "Address and subnet of the default bridge, as in 172.17.0.1/16"),
    flag("bip6", STRING, "IPv6 address and subnet of the default bridge"),
    flag("bridge", STRING, 'Attach containers to this existing bridge; "none": no default network', short="b"),
    flag("bridge-accept-fwmark", STRING, "Accepted and ignored", hidden=True),
    flag("cdi-spec-dir", LIST, "Directory with CDI files of devices (default /etc/cdi, /var/run/cdi)", key="cdi-spec-dirs"),
    flag("cgroup-parent", STRING, "Parent cgroup of all containers"),
    flag("containerd", STRING, "Accepted and ignored: Orlop does not use containerd", hidden=True),
    flag("containerd-namespace", STRING, "Accepted and ignored", hidden=True),
    flag("containerd-plugins-namespace", STRING, "Accepted and ignored", key="containerd-plugin-namespace", hidden=True),
    flag("cpu-rt-period", INT, "Refused", hidden=True),
    flag("cpu-rt-runtime", INT, "Refused", hidden=True),
    flag("cri-containerd", BOOL, "Accepted and ignored", hidden=True),
    flag(
        "default-address-pool",
        POOL,
        "Address pool for the subnets of networks: base=10.10.0.0/16,size=24",
        key="default-address-pools",
    ),
    flag("default-cgroupns-mode", STRING, "Default mode of a container's cgroup namespace: host or private"),
    flag("default-gateway", STRING, "IPv4 gateway of containers on the default bridge (default: the bridge)"),
    flag("default-gateway-v6", STRING, "IPv6 gateway of containers on the default bridge"),
    flag("default-ipc-mode", STRING, "Default mode of a container's IPC namespace: shareable or private"),
    flag("default-network-opt", NETOPT, "Default network options: driver=option=value", key="default-network-opts"),
    flag(
        "default-runtime", STRING, "Default OCI runtime of containers, or auto: crun if installed, else runc (default runc)"
    ),
    flag("default-shm-size", STRING, "Default size of /dev/shm (default 64M)"),
    flag("default-stop-timeout", INT, "Seconds between the stop signal and SIGKILL for a container (default 10)"),
    flag("default-ulimit", ULIMIT, "Default ulimits of containers: nofile=1024:2048", key="default-ulimits"),
    flag("dns", LIST, "DNS servers of containers"),
    flag("dns-opt", LIST, "DNS options of containers", key="dns-opts"),
    flag("dns-search", LIST, "DNS search domains of containers"),
    flag("exec-opt", LIST, "Runtime execution options: native.cgroupdriver=cgroupfs|systemd", key="exec-opts"),
    flag("experimental", BOOL, "Tell clients that experimental features are on"),
    flag("feature", FEATURE, "Switch a feature, name=true or name=false (buildkit)", key="features"),
    flag("firewall-backend", STRING, "Firewall backend: nftables (default) or iptables, which is refused"),
    flag("fixed-cidr", STRING, "IPv4 range for addresses of containers on the default bridge"),
    flag("fixed-cidr-v6", STRING, "IPv6 range for addresses of containers on the default bridge"),
    flag("host-gateway-ip", LIST, "Address for host-gateway in --add-host", key="host-gateway-ips"),
    flag("http-proxy", STRING, "HTTP proxy URL for registry traffic", key="proxies.http-proxy"),
    flag("https-proxy", STRING, "HTTPS proxy URL for registry traffic", key="proxies.https-proxy"),
    flag("icc", BOOL, "Allow traffic between containers on the default bridge (default true)"),
    flag("init", BOOL, "Run an init process in every container, which forwards signals and reaps processes"),
    flag("init-path", STRING, "Path of the program that --init runs"),
    flag("insecure-registry", LIST, "Registry that may be used without TLS", key="insecure-registries"),
    flag("ip", STRING, "Default host address of published ports (default 0.0.0.0)"),
    flag("ip-forward", BOOL, "Enable IP forwarding on the host (default true)"),
    flag("ip-forward-no-drop", BOOL, "Accepted and ignored: Orlop never changes the FORWARD policy", hidden=True),
    flag("ip-masq", BOOL, "Masquerade traffic that leaves the default bridge (default true)"),
    flag("ip6tables", BOOL, "Accepted and ignored: --iptables also controls IPv6", hidden=True),
    flag("iptables", BOOL, "Add nftables rules for containers (default true)"),
    flag("ipv6", BOOL, "Enable IPv6 on the default bridge"),
    flag("label", LIST, "Set key=value labels of the daemon", key="labels"),
    flag("live-restore", BOOL, "Keep containers running while the daemon is down"),
    flag("log-driver", STRING, "Default log driver of containers (default json-file)"),
    flag("log-opt", MAP, "Default log options of containers: key=value", key="log-opts"),
    flag("max-concurrent-downloads", INT, "Concurrent layer downloads of a pull (default 3)"),
    flag("max-concurrent-uploads", INT, "Concurrent layer uploads of a push (default 5)"),
    flag("max-download-attempts", INT, "Attempts at each layer of a pull (default 5)"),
    flag("mtu", INT, "MTU of the default bridge (default 1500)"),
    flag("network-control-plane-mtu", INT, "Accepted and ignored: Orlop has no swarm mode", hidden=True),
    flag("network-diagnostic-port", INT, "Accepted and ignored", hidden=True),
    flag("no-new-privileges", BOOL, "Set no-new-privileges for new containers"),
    flag("no-proxy", STRING, "Hosts for which the daemon uses no proxy", key="proxies.no-proxy"),
    flag(
        "node-generic-resource",
        LIST,
        "Accepted and ignored: Orlop has no swarm mode",
        key="node-generic-resources",
        hidden=True,
    ),
    flag("raw-logs", BOOL, "Accepted and ignored: the daemon's log never has colours"),
    flag("registry-mirror", LIST, "Mirror that is asked before Docker Hub", key="registry-mirrors"),
    flag("rootless", BOOL, "Refused: Orlop runs as root", hidden=True),
    flag("seccomp-profile", STRING, "Path of a seccomp profile, or unconfined (default: the built-in one)"),
    flag("selinux-enabled", BOOL, "Refused", hidden=True),
    flag("shutdown-timeout", INT, "Seconds that the daemon waits for containers when it stops (default 15)"),
    flag("storage-driver", STRING, "Storage driver to use (default overlay2)", short="s"),
    flag("storage-opt", LIST, "Storage driver options: DRIVER.NAME=VALUE", key="storage-opts"),
    flag("swarm-default-advertise-addr", STRING, "Accepted and ignored: Orlop has no swarm mode", hidden=True),
    flag("userland-proxy", BOOL, "Accepted and ignored: Orlop has no proxy program", hidden=True),
    flag("userland-proxy-path", STRING, "Accepted and ignored: Orlop has no proxy program", hidden=True),
    flag("userns-remap", STRING, "User or group whose subordinate ids are mapped into containers"),
)
