"""Very long numbers in input from clients and images are refused with a clear message, never with a Python exception."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orlop_engine.containers import listing, signals
from orlop_engine.images.changes import apply
from orlop_engine.images.listing import moment
from orlop_engine.networks.ports import wanted_ports
from orlop_engine.spec import seccomp
from orlop_engine.types.containers import PortBinding
from orlop_engine.types.images import ImageConfig
from orlop_sdk import InvalidParameter, users
from orlop_sdk.numbers import natural

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("0080", 80), ("0" * 6000 + "7", 7), ("255", 255), ("256", None), (LONG, None)]
    + [(text, None) for text in ("", "-1", "+1", " 1", "1_0", "1.0", "\u0661", "x")],
)
def test_only_natural_numbers_up_to_the_limit_are_parsed(text: str, number: int | None) -> None:
    assert natural(text, 255) == number


@pytest.mark.parametrize(
    "do",
    [
        lambda: signals.parse_signal(LONG),
        lambda: listing._port_range("publish", LONG),
        lambda: listing._port_range("expose", f"1-{LONG}/tcp"),
        lambda: wanted_ports([f"{LONG}/tcp"], {}, False),
        lambda: wanted_ports([], {"80/tcp": [PortBinding(host_port=LONG)]}, False),
        lambda: moment(LONG, 0.0),
        lambda: moment(f"{LONG}h", 0.0),
        lambda: apply(ImageConfig(), [f"HEALTHCHECK --interval={LONG}h CMD x"]),
        lambda: apply(ImageConfig(), [f"HEALTHCHECK --retries={LONG} CMD x"]),
        lambda: seccomp.parse("[" * 100_000, ()),
    ],
)
def test_numbers_with_thousands_of_digits_are_refused(do: Any) -> None:
    with pytest.raises(InvalidParameter):
        do()


def test_user_ids_with_thousands_of_digits_are_refused(tmp_path: Path) -> None:
    """The IDs come from the request, and from the files passwd and group of an image."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"long:x:{LONG}:{LONG}::/:/bin/sh\nuser:x:5:6::/home:/bin/sh\n")
    (tmp_path / "etc/group").write_text(f"long:x:{LONG}:user\nown:x:7:user\n")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert users.resolve(root, "user") == users.Identity(5, 6, (6, 7), "/home")
        for user, added in ((LONG, ()), ("long", ()), (f"5:{LONG}", ()), ("5", (LONG,))):
            with pytest.raises(InvalidParameter):
                users.resolve(root, user, added)
    finally:
        os.close(root)
