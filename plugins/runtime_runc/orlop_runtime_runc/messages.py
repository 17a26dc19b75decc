"""Converts a runtime's error message to the text that Docker's clients compare. This module does no I/O.

`docker run` derives its exit code from the text: 127 for "executable file not found" and "no such file or directory", 126
for "permission denied". The prefix is the same as dockerd's shim adds.
"""

from __future__ import annotations

import re

import msgspec

from orlop_sdk import Outcome

__all__ = ["complaint", "explain"]

_CRUN_NOT_EXECUTABLE = re.compile(r"the path [`'\"]?(?P<name>[^`'\"]*)[`'\"]? exists but it is not executable")
_CRUN_NO_DIRECTORY = re.compile(r"chdir to [`'\"]?(?P<name>[^`'\"]*)[`'\"]?: (?P<cause>[^:]+)$")
_CRUN_NOT_A_FILE = re.compile(r"the path [`'\"]?(?P<name>[^`'\"]*)[`'\"]? is not a regular file")


class _Line(msgspec.Struct):
    level: str = ""
    msg: str = ""


_decoder = msgspec.json.Decoder(_Line)
_PREFIX = re.compile(r"^(?:\S*/)?(?:runc|crun|youki) (run|exec|create|restore) failed: ")
# The message of crun: executable file `x` not found in $PATH: No such file or directory
_CRUN_NOT_FOUND = re.compile(r"executable file [`'\"]?(?P<name>[^`'\"]*)[`'\"]? not found(?: in \$PATH)?")


def complaint(outcome: Outcome, log: bytes) -> str:
    """The last error in the runtime's JSON log. If the log contains no error, the last line of the runtime's standard
    error."""
    for line in reversed(log.splitlines()):
        try:
            entry = _decoder.decode(line)
        except msgspec.MsgspecError:
            continue
        if entry.level in ("error", "fatal") and entry.msg.strip():
            return entry.msg.strip()
    said = outcome.stderr.decode("utf-8", "replace").strip()
    return said.splitlines()[-1].strip() if said else ""


def _in_runc_words(text: str) -> str:
    """Convert messages of crun that clients compare to runc's messages."""
    if found := _CRUN_NOT_FOUND.search(text):
        return f'unable to start container process: exec: "{found["name"]}": executable file not found in $PATH'
    if found := _CRUN_NOT_A_FILE.search(text):
        return f'unable to start container process: exec: "{found["name"]}": is a directory'
    if found := _CRUN_NOT_EXECUTABLE.search(text):
        return f'unable to start container process: exec: "{found["name"]}": permission denied'
    if found := _CRUN_NO_DIRECTORY.search(text):
        return (
            f'unable to start container process: chdir to cwd ("{found["name"]}") set in config.json failed: '
            + found["cause"].lower()
        )
    return re.sub(r": (No such file or directory|Permission denied|Is a directory|Not a directory)\b", _lower, text)


def _lower(match: re.Match[str]) -> str:
    return match[0].lower()


def explain(runtime: str, outcome: Outcome, log: bytes, verb: str = "create") -> str:
    """`OCI runtime create failed: runc create failed: CAUSE`, or `OCI runtime exec failed: exec failed: CAUSE`."""
    text = complaint(outcome, log)
    if prefix := _PREFIX.match(text):
        verb = "exec" if prefix[1] == "exec" else "create"
        text = text[prefix.end() :]
    elif text.startswith("exec failed: "):
        verb, text = "exec", text.removeprefix("exec failed: ")
    if runtime.endswith("crun"):
        text = _in_runc_words(text)
    if outcome.timed_out:
        text = "the runtime did not answer in time and was killed" + (f": {text}" if text else "")
    elif not text:
        how = f"signal {-outcome.status}" if outcome.status < 0 else f"exit status {outcome.status}"
        text = f"{runtime} ended with {how} and gave no reason"
    if verb == "exec":
        return f"OCI runtime exec failed: exec failed: {text}"
    return f"OCI runtime create failed: {runtime} create failed: {text}"
