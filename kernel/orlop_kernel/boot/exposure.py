"""Checks whether the daemon may listen on a TCP address, because clients of the API have root's rights on this machine.
Pure. Imports no trio, because `--validate` uses this module.

On all addresses except loopback, clients must present a certificate, unless `allow-insecure-tcp` is set.
"""

from __future__ import annotations

import logging

from orlop_kernel.config import Config, ConfigError

__all__ = ["by_tcp", "check", "check_hosts", "split_tcp"]

_log = logging.getLogger("orlop.daemon")


def split_tcp(text: str, tls: bool) -> tuple[str, int]:
    """Host and port of `host:port`, with dockerd's defaults for a missing part."""
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        host, port = text, ""
    return host.strip("[]") or "localhost", int(port or (2376 if tls else 2375))


def _is_loopback(host: str) -> bool:
    """Whether a host name or IP address is loopback. Names are not resolved, because DNS may change after the check."""
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def check(url: str, host: str, config: Config) -> None:
    """Raise `ConfigError` if clients on other machines could use this address without a certificate. If
    `allow-insecure-tcp` is set, only warn."""
    if config.verifies_clients:
        return
    lacking = "without client certificates (tlsverify is off)" if config.uses_tls else "without TLS"
    if _is_loopback(host):
        if not config.uses_tls:
            _log.warning("%s has no TLS: every user and program of this machine can use it to become root", url)
        return
    if not config.allow_insecure_tcp:
        raise ConfigError(
            f"cannot listen on {url}: {lacking}, anyone who can reach this address can become root on this machine; "
            "use --tlsverify with --tlscacert, --tlscert and --tlskey (`orlop tls init` makes them), or listen on 127.0.0.1 "
            "(--allow-insecure-tcp skips this check)"
        )
    _log.warning(
        "allow-insecure-tcp: %s is open %s: anyone who can reach this address can become root on this machine", url, lacking
    )


def by_tcp(config: Config) -> list[str]:
    """The `tcp://` addresses of `hosts`. Sockets opened by systemd are not known before the start."""
    return [host for host in config.effective_hosts if not host.startswith(("unix://", "fd://"))]


def check_hosts(config: Config) -> None:
    """Call `check` for every `tcp://` address of the configuration."""
    for url in by_tcp(config):
        check(url, split_tcp(url.removeprefix("tcp://"), config.uses_tls)[0], config)
