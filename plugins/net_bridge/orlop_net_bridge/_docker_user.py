"""Two accepts for each bridge in `DOCKER-USER`, where dockerd's FORWARD policy would drop what we let through.

`DOCKER-USER` comes before Docker's isolation of its own networks, so only packets that our chain `admit` marked are accepted
there: those whose other end is no bridge of somebody else's. Packets to or from Docker's bridges stay Docker's to judge. The
mark carries the decision because iptables, which dockerd runs on this table, cannot read a rule that asks for a link's kind,
and refuses the whole table then.

The only rules we keep in a foreign table; each carries our comment. Nothing is done where the chain does not exist.
"""

from __future__ import annotations

from typing import Any

from ._nft import Nft, NftError
from ._plan import ADMITTED

__all__ = ["admit", "lacking", "withdraw"]

_FAMILIES = ("ip", "ip6")
_SIDES = ("oifname", "iifname")


def _rules(nft: Nft, family: str) -> dict[str, list[dict[str, Any]]] | None:
    """Comment -> the chain's rules, in JSON; None without the chain."""
    try:
        listing: dict[str, Any] = nft.read(f"list chain {family} filter DOCKER-USER", "list DOCKER-USER")
    except NftError:
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in listing.get("nftables", ()):
        rule = entry.get("rule")
        if rule and rule.get("comment"):
            found.setdefault(rule["comment"], []).append(rule)
    return found


def _comment(table: str, bridge: str) -> str:
    return f"{table}:{bridge}"


def _expression(side: str, bridge: str) -> list[dict[str, Any]]:
    """A rule of ours as nft lists it."""
    mark = {"&": [{"meta": {"key": "mark"}}, ADMITTED]}
    return [
        {"match": {"op": "==", "left": {"meta": {"key": side}}, "right": bridge}},
        {"match": {"op": "==", "left": mark, "right": ADMITTED}},
        {"accept": None},
    ]


def _is_whole(rules: list[dict[str, Any]], bridge: str) -> bool:
    """Counters aside: iptables-restore adds one to every rule."""
    held = [[part for part in rule["expr"] if "counter" not in part] for rule in rules]
    return len(held) == len(_SIDES) and all(_expression(side, bridge) in held for side in _SIDES)


def lacking(nft: Nft, table: str, bridges: list[str]) -> list[str]:
    """Which of these bridges lack their accepts, where there is the chain."""
    listings = [held for family in _FAMILIES if (held := _rules(nft, family)) is not None]
    return [
        bridge
        for bridge in bridges
        if not all(_is_whole(held.get(_comment(table, bridge), []), bridge) for held in listings)
    ]


def admit(nft: Nft, table: str, bridges: list[str]) -> None:
    """Make sure of the accepts of these bridges."""
    for family in _FAMILIES:
        held = _rules(nft, family)
        if held is None:
            continue
        lines = []
        for bridge in bridges:
            comment = _comment(table, bridge)
            rules = held.get(comment, [])
            if not _is_whole(rules, bridge):
                lines += [f"delete rule {family} filter DOCKER-USER handle {rule['handle']}" for rule in rules]
                lines += [
                    f'insert rule {family} filter DOCKER-USER {side} "{bridge}" '
                    f'meta mark & {ADMITTED:#x} == {ADMITTED:#x} accept comment "{comment}"'
                    for side in _SIDES
                ]
        if lines:
            nft.run("\n".join(lines), "admit our bridges to DOCKER-USER")


def withdraw(nft: Nft, table: str, keep: list[str]) -> None:
    """Remove our accepts of all bridges but these."""
    wanted = {_comment(table, bridge) for bridge in keep}
    for family in _FAMILIES:
        held = _rules(nft, family) or {}
        lines = [
            f"delete rule {family} filter DOCKER-USER handle {rule['handle']}"
            for comment, rules in held.items()
            if comment.startswith(f"{table}:") and comment not in wanted
            for rule in rules
        ]
        if lines:
            nft.run("\n".join(lines), "remove our rules from DOCKER-USER")
