"""Names and numbers of signals, as clients write them."""

from __future__ import annotations

import re
import signal

from orlop_sdk import InvalidParameter
from orlop_sdk.numbers import natural

__all__ = ["parse_signal"]


def parse_signal(text: str) -> int:
    """Parse a signal: number or name, with or without SIG, in any case."""
    if text.isascii() and text.isdigit():
        if number := natural(text, 64):
            return number
        raise InvalidParameter(f"invalid signal: {text}")
    name = text.upper().removeprefix("SIG")
    if match := re.fullmatch(r"RTMIN(?:\+(\d{1,2}))?|RTMAX(?:-(\d{1,2}))?", name):
        base = signal.SIGRTMIN if name.startswith("RTMIN") else signal.SIGRTMAX
        number = base + int(match[1] or 0) - int(match[2] or 0)
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    found = getattr(signal, f"SIG{name}", None)
    if not isinstance(found, signal.Signals):
        raise InvalidParameter(f"invalid signal: {text}")
    return int(found)
