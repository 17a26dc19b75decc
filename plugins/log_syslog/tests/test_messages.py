from __future__ import annotations

import pytest

from orlop_log_syslog.messages import FORMATS, Encoder


@pytest.mark.parametrize("form", sorted(FORMATS))
@pytest.mark.parametrize("data", [b"one\n", b"one\ntwo\n", b"\n", b"\none\n", b"one\n\n\ntwo\n"], ids=repr)
def test_encoded_block_of_lines_equals_the_lines_encoded_one_by_one(form: str, data: bytes) -> None:
    for counted in (False, True):
        encoder = Encoder(form, 3, "tag", "host", 42, counted=counted)
        lines = [encoder.line("stderr", text, 1_700_000_000_123_456_789) for text in data[:-1].split(b"\n")]
        assert encoder.block("stderr", data, 1_700_000_000_123_456_789) == b"".join(lines)


def test_message_over_tls_begins_with_its_length() -> None:
    message = Encoder("rfc5424micro", 3, "tag", "host", 42, counted=True).line("stdout", b"text", 1_700_000_000_000_001_000)
    length, _, rest = message.partition(b" ")
    assert int(length) == len(rest)
    assert rest.startswith(b"<30>1 2023-11-1")
    assert b".000001" in rest
    assert rest.endswith(b" host tag 42 tag - text\n")
