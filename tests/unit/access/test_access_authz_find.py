"""The search for an authorization plugin by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from orlop_guard_listeners import authz_find
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.authz_find import Address, find
from orlop_kernel.config import ConfigError
from orlop_kernel.http.listeners import open_unix_listener


def test_authorization_plugins_are_found_by_their_sockets_or_spec_files(tmp_path: Path) -> None:
    sockets, specs = tmp_path / "run", tmp_path / "etc"
    (sockets / "sub").mkdir(parents=True)
    specs.mkdir()

    def found(name: str) -> Address:
        return find(name, str(sockets), (str(specs),))

    with pytest.raises(
        ConfigError, match=r'authorization plugin "none" not found: there is no none\.sock, \.spec or \.json in'
    ):
        found("none")
    (specs / "a.spec").write_text("tcp://127.0.0.1:99\n")
    assert found("a")[:4] == ("tcp://127.0.0.1:99", "", "127.0.0.1", 99)
    (specs / "b.spec").write_text("unix:///run/b.sock")
    assert found("b").unix == "/run/b.sock"
    (specs / "c.json").write_text('{"Name": "c", "Addr": "https://localhost:99", "TLSConfig": {"InsecureSkipVerify": true}}')
    assert (found("c").host, found("c").context is None) == ("localhost", False)
    (specs / "d.spec").write_text("somewhere")
    with pytest.raises(ConfigError, match=r"cannot use .*d.spec: the address \"somewhere\" is neither"):
        found("d")
    (specs / "e.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot use .*e.json"):
        found("e")
    (specs / "f.json").write_text('{"Addr": "tcp://h:1", "TLSConfig": {"CAFile": "/no/such/ca.pem"}}')
    with pytest.raises(ConfigError, match="No such file"):
        found("f")
    (sockets / "a.sock").touch()
    assert not found("a").unix  # a regular file of that name is not a socket
    trio.run(_socket, sockets / "sub" / "sub.sock", found)


async def _socket(path: Path, found: Callable[[str], Address]) -> None:
    listener = open_unix_listener(str(path))
    assert found("sub") == Address(f"unix://{path}", str(path))
    await listener.aclose()


def test_reload_keeps_the_client_of_a_plugin_that_stays_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_guard_listeners.authz.find", lambda name: Address(f"unix:///{name}", f"/{name}"))
    chain = Chain()
    first = chain.prepare(["a", "b"])
    chain.replace(first)
    assert chain.prepare(["b", "c", "b"])[0] is first[1]
    assert [plugin.name for plugin in chain.prepare(["b", "c", "b"])] == ["b", "c"]
    assert chain
    chain.replace(())
    assert not chain
    assert authz_find.SOCKETS == "/run/docker/plugins"
