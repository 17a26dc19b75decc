"""Which of the kernel's keys a reload applies, and names that are mistaken for keys. Data, no code."""

from __future__ import annotations

__all__ = ["HINTS", "RELOADABLE"]

RELOADABLE = frozenset({"debug", "log-level"})

HINTS: dict[str, str] = {
    "config-file": "only as a flag",
    "containerd-plugins-namespace": "containerd-plugin-namespace",
    "http-proxy": "proxies",
    "https-proxy": "proxies",
    "no-proxy": "proxies",
    "default-init": "init",
    "graph": "data-root",
    "oom-score-adjust": "dockerd has dropped it; the daemon sets its own",
    "resolv-conf": "dns, dns-opts and dns-search",
    "storage-opt": "storage-opts",
    "validate": "only as a flag",
}
"""Names that people mistake for keys, and what to write instead."""
