"""libnftables and the program nft have the same effects and raise the same errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orlop_net_bridge import _plan
from orlop_net_bridge._nft import Nft, NftError, _Library, _Program
from orlop_sdk.testing import in_own_network

pytestmark = pytest.mark.root

PORT = _plan.Element("ports4", "tcp . 80", "10.0.0.2 . 80")
OTHER = _plan.Element("ports4", "tcp . 80", "10.0.0.3 . 80")
BRIDGE = _plan.Element("bridges", '"br0"')
SUBNET = _plan.Element("inside4", "10.0.0.0/24")
EVERYTHING = frozenset({PORT, BRIDGE, SUBNET, _plan.Element("ports6_at", "fd00::1 . udp . 53", "fd00:1::2 . 53")})


@pytest.fixture(params=["library", "program"])
def on_nft(request: pytest.FixtureRequest) -> Callable[[Callable[[Nft], None]], None]:
    def run(body: Callable[[Nft], None]) -> None:
        async def main() -> None:
            nft: Nft = _Library() if request.param == "library" else _Program("/usr/sbin/nft")
            try:
                body(nft)
            finally:
                nft.close()

        in_own_network(main)

    return run


def elements(nft: Nft) -> frozenset[_plan.Element]:
    return _plan.parse_elements(nft.read("list table inet orlop", "list"))


def test_nftables_returns_the_rules_as_they_were_written(on_nft: Callable[[Callable[[Nft], None]], None]) -> None:
    def body(nft: Nft) -> None:
        nft.run(_plan.update_table("orlop", frozenset(), EVERYTHING), "create")
        assert elements(nft) == EVERYTHING
        wanted = (EVERYTHING - {PORT}) | {OTHER}
        nft.run(_plan.update_table("orlop", elements(nft), wanted), "change")
        assert elements(nft) == wanted
        nft.run(_plan.update_table("orlop", frozenset(), frozenset({BRIDGE, SUBNET})), "say again what is there")
        nft.run(_plan.replace_table("orlop", EVERYTHING), "replace")
        assert elements(nft) == EVERYTHING
        nft.run(_plan.delete_table("orlop"), "delete")
        nft.run(_plan.delete_table("orlop"), "delete what is gone")
        with pytest.raises(NftError) as caught:
            elements(nft)
        assert caught.value.missing and not caught.value.exists

    on_nft(body)


def test_refused_changes_have_no_effect(on_nft: Callable[[Callable[[Nft], None]], None]) -> None:
    def body(nft: Nft) -> None:
        nft.run(_plan.update_table("orlop", frozenset(), EVERYTHING), "create")
        free = _plan.Element("ports4", "tcp . 81", "10.0.0.3 . 80")
        with pytest.raises(NftError, match=r"^cannot publish: nft: .*File exists") as caught:
            nft.run(_plan.add_elements("orlop", {free, OTHER}), "publish")
        assert caught.value.exists
        assert elements(nft) == EVERYTHING, "all or nothing"
        with pytest.raises(NftError) as caught:
            nft.run(_plan.delete_elements("orlop", {free}), "withdraw")
        assert caught.value.missing
        with pytest.raises(NftError, match="syntax error"):
            nft.run("nonsense", "do it")

    on_nft(body)
