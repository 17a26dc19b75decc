"""`orlop builder`, `config`, `container`, `debug`, `image`, `network`, `system`, `tls`, `volume`."""

from __future__ import annotations

from orlop_cli import _root
from orlop_cli._groups import Lazy, LazyGroup


def _group(name: str, table: dict[str, Lazy], aliases: dict[str, str]) -> LazyGroup:
    return LazyGroup(name, _root.TABLE[name].summary, table, aliases, installed=True)


builder = _group("builder", _root.BUILDER, {})
config = _group("config", _root.CONFIG, {})
container = _group("container", _root.CONTAINER, _root.PS_ALIASES)
debug = _group("debug", _root.DEBUG, {})
image = _group("image", _root.IMAGE, _root.LIST_ALIASES)
network = _group("network", _root.NETWORK, _root.LIST_ALIASES)
system = _group("system", _root.SYSTEM, {})
tls = _group("tls", _root.TLS, {})
volume = _group("volume", _root.VOLUME, _root.LIST_ALIASES)
