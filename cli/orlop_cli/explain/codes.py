"""Exit codes and errors of starts in words."""

from __future__ import annotations

import re

__all__ = ["START_ERRORS", "exit_words", "held_port", "signal_of", "start_hint"]

_CODES = {
    0: "the program ended without an error",
    125: "the container could not be started, or the program itself ended with 125",
    126: "the command was found, but cannot be executed",
    127: "the command was not found",
    128: "the container could not be started, or the program itself ended with 128",
    255: "the program reported a general error (255, or -1)",
}
_SIGNALS = {
    4: "an instruction that this CPU does not know",
    6: "the program aborted itself, often after a failed assertion",
    7: "a memory access error",
    8: "an arithmetic error, such as a division by zero",
    9: "no program can handle this signal",
    11: "segmentation fault: the program used memory that does not belong to it",
    13: "the program wrote into a pipe without a reader",
    15: "a request to end",
}
START_ERRORS = (
    (r"address already in use|port is already allocated", "port", "The host port is in use."),
    (
        r"executable file not found|no such file or directory.*unable to start|exec:.*no such file",
        "command",
        "The command does not exist in the image.",
    ),
    (r"exec.*permission denied", "mode", "The command is not executable, or the container's user may not execute it."),
    (r"exec format error", "format", "The command is built for another CPU, or is a script without a line #!."),
    (r"no space left on device", "disk", "The disk is full."),
    (
        r"unable to find user|unable to find group|no matching entries in passwd",
        "user",
        "The user does not exist in the image.",
    ),
    (r"network .* not found", "network", "A network of the container does not exist any more."),
    (r"no such container|cannot join network", "joined", "A container whose namespace this container uses does not run."),
    (
        r"mount.*(no such file|not a directory)|bind source path",
        "mount",
        "A source of a mount does not exist, or has the wrong type.",
    ),
    (r"unknown runtime|unknown or invalid runtime", "runtime", "The daemon does not know the container's runtime."),
)
"""Patterns of errors, the name of the cause, and the cause in words."""


def signal_of(code: int) -> tuple[int, str] | None:
    """The number and name of the signal of an exit code (128 + signal); None if the code does not mean a signal."""
    if not 128 < code < 128 + 65:
        return None
    import signal

    try:
        return code - 128, signal.Signals(code - 128).name
    except ValueError:
        return None


def exit_words(code: int) -> str:
    """An exit code in words."""
    if code in _CODES:
        return _CODES[code]
    found = signal_of(code)
    if found is None:
        return "the program reported an error; the meaning of this code is defined by the program"
    number, name = found
    meaning = _SIGNALS.get(number)
    return f"ended by signal {number} ({name}" + (f": {meaning})" if meaning else ")")


def start_hint(error: str) -> tuple[str, str]:
    """The name of the cause of a failed start, and the cause in words; ("", "") for an unknown error."""
    for pattern, name, words in START_ERRORS:
        if re.search(pattern, error, re.IGNORECASE | re.DOTALL):
            return name, words
    return "", ""


def held_port(error: str) -> tuple[int, str] | None:
    """The host port and protocol that an error of a start names."""
    for pattern in (r":(\d+)/(tcp|udp|sctp)", r"[\w.:\[\]]*:(\d+)(?:->\S*)? failed: port", r":(\d+): bind"):
        found = re.search(pattern, error)
        if found:
            return int(found[1]), found[2] if found.lastindex == 2 else "tcp"
    return None
