"""Accept rules in the chain `DOCKER-USER`, two for each bridge. Without these rules, dockerd's FORWARD policy drops packets
that Orlop's table accepts.

`DOCKER-USER` is evaluated before Docker's isolation of its own networks. So Orlop's rules accept only packets that Orlop's
chain `admit` has marked, and this chain marks only packets whose other end is not a bridge of another program. Docker still
filters packets to or from its bridges. The decision is passed in the mark, because iptables, which dockerd runs on this
table, cannot parse a rule that matches the kind of a link, and refuses a table with such a rule.

These are Orlop's only rules in a table of another program. Each rule has a comment with the name of Orlop's table. Nothing
is done if the chain does not exist.
"""

from __future__ import annotations

from typing import Any

from ._nft import Nft, NftError
from ._plan import ADMITTED

__all__ = ["admit", "lacking", "withdraw"]

_FAMILIES = ("ip", "ip6")
_SIDES = ("oifname", "iifname")


def _rules(nft: Nft, family: str) -> dict[str, list[dict[str, Any]]] | None:
    """The rules of the chain by comment, as nft's JSON; None when the chain does not exist."""
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
    """The expression of one of Orlop's rules, as nft lists it."""
    mark = {"&": [{"meta": {"key": "mark"}}, ADMITTED]}
    return [
        {"match": {"op": "==", "left": {"meta": {"key": side}}, "right": bridge}},
        {"match": {"op": "==", "left": mark, "right": ADMITTED}},
        {"accept": None},
    ]


def _is_whole(rules: list[dict[str, Any]], bridge: str) -> bool:
    """Whether a bridge has exactly its two rules. Counters are ignored, because iptables-restore adds one to every rule."""
    held = [[part for part in rule["expr"] if "counter" not in part] for rule in rules]
    return len(held) == len(_SIDES) and all(_expression(side, bridge) in held for side in _SIDES)


def lacking(nft: Nft, table: str, bridges: list[str]) -> list[str]:
    """The bridges that lack their accept rules in an existing chain."""
    listings = [held for family in _FAMILIES if (held := _rules(nft, family)) is not None]
    return [
        bridge
        for bridge in bridges
        if not all(_is_whole(held.get(_comment(table, bridge), []), bridge) for held in listings)
    ]


def admit(nft: Nft, table: str, bridges: list[str]) -> None:
    """Add missing accept rules for these bridges."""
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
            nft.run("\n".join(lines), "add rules for bridges to DOCKER-USER")


def withdraw(nft: Nft, table: str, keep: list[str]) -> None:
    """Remove this table's accept rules for all bridges except `keep`."""
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
            nft.run("\n".join(lines), "remove rules for bridges from DOCKER-USER")
