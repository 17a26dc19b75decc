"""Container names: validation, and generated names."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container

from orlop_sdk import InvalidParameter

__all__ = ["check", "generate", "new_id"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_ADJECTIVES = (
    "able amber ample bold brave brisk calm candid clear clever cosy crisp deft eager early fair fleet fond gentle "
    "glad golden grand happy hardy honest humble jolly keen kind lively loyal lucid mellow merry mild modest neat "
    "nimble noble patient plucky polite proud quick quiet ready robust serene sharp silent sleek smooth snug sober "
    "solid steady stout sturdy sunny swift tidy trusty upbeat vivid warm wise witty worthy zesty"
).split()
# Surnames of seafarers, cable pioneers and computer scientists, because an orlop is the deck of a ship where cables were
# stored.
_SURNAMES = (
    "anson babbage baret barents beaufort bering bligh boole bougainville cabot cartier champlain church cochrane "
    "cook dampier diaz dijkstra drake earhart elcano field fitzroy flinders franklin frobisher gama gilbert grace "
    "halley hamming harrison hawkins henson hopper hudson kahn knuth lamport liskov lovelace magellan maury mccarthy "
    "nansen nelson ohm perlman perouse polo ritchie ross scoresby shackleton shannon slocum stokes tasman thompson "
    "torvalds turing vancouver vespucci watt wheatstone zheng"
).split()


def check(name: str) -> str:
    """Return the name without a leading slash. Raises `InvalidParameter` with Docker's message."""
    bare = name.removeprefix("/")
    if not _NAME.match(bare):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare


def generate(taken: Container[str], container_id: str) -> str:
    """A free name of the form adjective_surname; after six collisions the short id."""
    for attempt in range(6):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_SURNAMES)}{attempt or ''}"
        if name not in taken:
            return name
    return container_id[:12]


def new_id() -> str:
    """64 random hex digits. The first twelve are never all decimal, because a short id must not look like a number."""
    while True:
        made = secrets.token_hex(32)
        if not made[:12].isdecimal():
            return made
