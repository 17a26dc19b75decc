"""Values of the engine's flags."""

from __future__ import annotations

import pytest

from orlop_engine.config.flags import parse_ulimit


def test_ulimit_flags_are_parsed() -> None:
    assert parse_ulimit("nofile=1024:2048") == ("nofile", 1024, 2048)
    assert parse_ulimit("nproc=5") == ("nproc", 5, 5)
    assert parse_ulimit("memlock=-1:-1") == ("memlock", -1, -1)
    for text in ("files=1", "nofile=x", "nofile", "nofile=-1:5"):
        with pytest.raises(ValueError, match=r"ulimit|key=value"):
            parse_ulimit(text)
