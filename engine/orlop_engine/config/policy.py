"""The keys that Orlop refuses or ignores, and the keys that a reload applies.

A key is refused if ignoring it weakens a security boundary that the administrator relies on. A key for a feature that Orlop
does not have is ignored, with a warning at start and in `GET /info`.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["HINTS", "IGNORED", "REFUSED", "RELOADABLE", "SILENT", "summary"]

HINTS = {
    "default-init": "init",
    "oom-score-adjust": "dockerd has removed this key; the daemon sets its OOM score itself",
    "resolv-conf": "dns, dns-opts and dns-search",
}
"""Names that users mistake for keys -> the key to write instead."""

REFUSED: dict[str, str] = {
    "cpu-rt-period": "real-time scheduling of the parent cgroup is not supported",
    "cpu-rt-runtime": "real-time scheduling of the parent cgroup is not supported",
    "nri-opts": "NRI plugins are not supported; a plugin that enforces a policy would have no effect",
    "rootless": "Orlop runs as root",
    "selinux-enabled": "SELinux labels are not supported; containers would run unconfined",
}
"""Keys that are an error unless they have their default value (or contain `"enable": false`), with the reason."""

IGNORED: dict[str, str] = {
    "allow-direct-routing": "Orlop has no such setting",
    "bridge-accept-fwmark": "Orlop's rules make no exception for packet marks",
    "containerd": "Orlop does not use containerd",
    "containerd-namespace": "Orlop does not use containerd",
    "containerd-plugin-namespace": "Orlop does not use containerd",
    "cri-containerd": "Orlop does not use containerd",
    "ip-forward-no-drop": "Orlop never changes the FORWARD policy",
    "ip6tables": "iptables controls the rules for IPv6, too",
    "network-control-plane-mtu": "Orlop has no swarm mode",
    "network-diagnostic-port": "Orlop has no network diagnostic server",
    "node-generic-resources": "Orlop has no swarm mode",
    "swarm-default-advertise-addr": "Orlop has no swarm mode",
    "userland-proxy": "the container's monitor always forwards published ports on loopback",
    "userland-proxy-path": "Orlop serves published ports without a proxy program",
}
"""Keys that are accepted without effect, with a warning when they are set."""

SILENT = frozenset({"allow-nondistributable-artifacts", "deprecated-key-path", "raw-logs"})
"""Keys that are accepted without effect and without a warning, because dockerd ignores them too. `raw-logs` has no effect
because Orlop's log never has colours."""

RELOADABLE = frozenset(
    {
        "cdi-spec-dirs",
        "default-cgroupns-mode",
        "default-ipc-mode",
        "default-runtime",
        "default-shm-size",
        "default-stop-timeout",
        "default-ulimits",
        "features",
        "init",
        "init-path",
        "image-compression",
        "insecure-registries",
        "labels",
        "live-restore",
        "log-driver",
        "log-opts",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "max-upload-attempts",
        "no-new-privileges",
        "proxies",
        "registry-mirrors",
        "registry-rules",
        "runtimes",
        "seccomp-profile",
        "shutdown-timeout",
    }
)
"""Keys that a reload (SIGHUP) applies: the keys that dockerd reloads, and other keys whose value is read at each use or
passed on by `Engine.reconfigure`."""


def summary(keys: Iterable[str]) -> str:
    """Which of the keys that are set have an effect, and which have none."""
    known, without = sorted(keys), IGNORED.keys() | SILENT
    effective = ", ".join(key for key in known if key not in without)
    ignored = ", ".join(key for key in known if key in without)
    return f"keys in effect: {effective or 'none'}" + (f"; keys without effect: {ignored}" if ignored else "")
