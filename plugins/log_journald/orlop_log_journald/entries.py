"""Entries in the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL). This module does no I/O.

A field is `NAME=VALUE\\n`. If the value contains a newline or is not text, the field is `NAME\\n`, its length (64 bits,
little-endian), the value, `\\n`.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from orlop_sdk import LogInfo
from orlop_sdk.logsending import LogLine

__all__ = ["Entries", "field_name", "fields"]

_PRIORITIES = {"stdout": b"PRIORITY=6\n", "stderr": b"PRIORITY=3\n"}
_NOT_ALLOWED = re.compile(r"[^A-Z0-9]")


def field_name(text: str) -> str:
    """The name of a field for a label or an environment variable. Other characters are replaced, because the journal drops
    such names. It also hides names that begin with an underscore."""
    return _NOT_ALLOWED.sub("_", text.upper()).lstrip("_")


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value or not value.isascii():
        return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)
    return b"%s=%s\n" % (name.encode(), value)


def fields(info: LogInfo, tag: str, attributes: dict[str, str]) -> dict[str, str]:
    """The fields of all entries of a container."""
    own = {
        "CONTAINER_ID": info.container_id[:12],
        "CONTAINER_ID_FULL": info.container_id,
        "CONTAINER_NAME": info.container_name.removeprefix("/"),
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": info.image_name,
        "SYSLOG_IDENTIFIER": tag,
    }
    return own | {field_name(name): value for name, value in attributes.items() if field_name(name)}


class Entries:
    """Encodes the lines of one run of a container. The lines are numbered within the run's epoch."""

    def __init__(self, constant: dict[str, str]) -> None:
        epoch = {"CONTAINER_LOG_EPOCH": secrets.token_hex(32)}
        self._constant = b"".join(_field(name, value.encode()) for name, value in (constant | epoch).items())
        self._ordinal = 0

    def encode(self, line: LogLine) -> bytes:
        self._ordinal += 1
        seconds, rest = divmod(line.time_ns, 1_000_000_000)
        fraction = f".{rest:09}".rstrip("0").rstrip(".")
        time = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
        parts = b""
        if line.part is not None:
            parts = (
                f"CONTAINER_PARTIAL_ID={line.part.id}\nCONTAINER_PARTIAL_ORDINAL={line.part.ordinal}\n"
                f"CONTAINER_PARTIAL_LAST={'true' if line.part.last else 'false'}\n"
                + ("" if line.part.last else "CONTAINER_PARTIAL_MESSAGE=true\n")
            ).encode()
        return b"%s%sCONTAINER_LOG_ORDINAL=%d\nSYSLOG_TIMESTAMP=%s\n%s%s" % (
            self._constant, _PRIORITIES[line.stream], self._ordinal, time.encode(), parts, _field("MESSAGE", line.data)
        )  # fmt: skip
