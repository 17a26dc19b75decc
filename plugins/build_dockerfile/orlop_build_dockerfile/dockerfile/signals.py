"""Names of Linux signals for STOPSIGNAL (moby/sys/signal)."""

from __future__ import annotations

__all__ = ["is_signal"]

_NAMES = set(
    "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM TRAP TSTP "
    "TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX".split()
)
_NAMES |= {f"RTMIN+{number}" for number in range(1, 16)} | {f"RTMAX-{number}" for number in range(1, 15)}


def is_signal(text: str) -> bool:
    """Whether the text is a number above 0, or a name with or without "SIG"."""
    if text.isdecimal() and text.isascii():
        return len(text) < 10 and int(text) != 0
    return text.upper().removeprefix("SIG") in _NAMES
