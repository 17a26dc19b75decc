"""Two accepts for each bridge in `DOCKER-USER`, where dockerd's FORWARD policy would drop what we let through.

The only rules we keep in a foreign table; each carries our comment. Nothing is done where the chain does not exist.
"""

from __future__ import annotations

from typing import Any

from ._nft import Nft, NftError

__all__ = ["admit", "withdraw"]

_FAMILIES = ("ip", "ip6")


def _rules(nft: Nft, family: str) -> dict[str, list[int]] | None:
    """Comment -> handles of the chain's rules; None without the chain."""
    try:
        listing: dict[str, Any] = nft.read(f"list chain {family} filter DOCKER-USER", "list DOCKER-USER")
    except NftError:
        return None
    found: dict[str, list[int]] = {}
    for entry in listing.get("nftables", ()):
        rule = entry.get("rule")
        if rule and rule.get("comment"):
            found.setdefault(rule["comment"], []).append(rule["handle"])
    return found


def _comment(table: str, bridge: str) -> str:
    return f"{table}:{bridge}"


def admit(nft: Nft, table: str, bridges: list[str]) -> None:
    """Make sure of the accepts of these bridges."""
    for family in _FAMILIES:
        held = _rules(nft, family)
        if held is None:
            continue
        lines = []
        for bridge in bridges:
            comment = _comment(table, bridge)
            handles = held.get(comment, [])
            if len(handles) != 2:
                lines += [f"delete rule {family} filter DOCKER-USER handle {handle}" for handle in handles]
                lines += [
                    f'insert rule {family} filter DOCKER-USER {side} "{bridge}" accept comment "{comment}"'
                    for side in ("oifname", "iifname")
                ]
        if lines:
            nft.run("\n".join(lines), "admit our bridges to DOCKER-USER")


def withdraw(nft: Nft, table: str, keep: list[str]) -> None:
    """Remove our accepts of all bridges but these."""
    wanted = {_comment(table, bridge) for bridge in keep}
    for family in _FAMILIES:
        held = _rules(nft, family) or {}
        lines = [
            f"delete rule {family} filter DOCKER-USER handle {handle}"
            for comment, handles in held.items()
            if comment.startswith(f"{table}:") and comment not in wanted
            for handle in handles
        ]
        if lines:
            nft.run("\n".join(lines), "remove our rules from DOCKER-USER")
