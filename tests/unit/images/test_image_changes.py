"""Dockerfile instructions of import and commit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_kernel.engine.images.changes import apply
from orlop_kernel.spi import InvalidParameter
from orlop_kernel.types.images import ImageConfig, ImageHealthcheck

SECOND = 10**9


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["CMD echo hi"], {"cmd": ["/bin/sh", "-c", "echo hi"]}),
        (['cmd ["a", "b"]'], {"cmd": ["a", "b"]}),
        (["CMD [not json"], {"cmd": ["/bin/sh", "-c", "[not json"]}),
        (['ENTRYPOINT ["/x"]'], {"entrypoint": ["/x"]}),
        (["ENV A=b", "ENV C d e", "ENV A=z"], {"env": ["A=z", "C=d e"]}),
        (['ENV A="b c" D=e'], {"env": ["A=b c", "D=e"]}),
        (["LABEL x=y z='a b'"], {"labels": {"x": "y", "z": "a b"}}),
        (["EXPOSE 80 53/UDP 7000-7001"], {"exposed_ports": {"80/tcp": {}, "53/udp": {}, "7000/tcp": {}, "7001/tcp": {}}}),
        (["VOLUME /a /b"], {"volumes": {"/a": {}, "/b": {}}}),
        (['VOLUME ["/a"]'], {"volumes": {"/a": {}}}),
        (["WORKDIR /a", "WORKDIR b/../c"], {"working_dir": "/a/c"}),
        (["USER bob:staff"], {"user": "bob:staff"}),
        (["STOPSIGNAL SIGUSR1"], {"stop_signal": "SIGUSR1"}),
        (["STOPSIGNAL rtmin+3"], {"stop_signal": "rtmin+3"}),
        (["STOPSIGNAL 9"], {"stop_signal": "9"}),
        (["ONBUILD RUN x", "ONBUILD ADD . /"], {"on_build": ["RUN x", "ADD . /"]}),
        (["HEALTHCHECK NONE"], {"healthcheck": ImageHealthcheck(["NONE"])}),
        (
            ["HEALTHCHECK --interval=5s --timeout=1m30s --retries=3 CMD true"],
            {"healthcheck": ImageHealthcheck(["CMD-SHELL", "true"], interval=5 * SECOND, timeout=90 * SECOND, retries=3)},
        ),
        (['HEALTHCHECK CMD ["a"]'], {"healthcheck": ImageHealthcheck(["CMD", "a"])}),
        (["USER a\nWORKDIR /b", "# nothing", ""], {"user": "a", "working_dir": "/b"}),
        (["ENV A=b \\\n C=d"], {"env": ["A=b", "C=d"]}),
    ],
)
def test_changes(changes: list[str], expected: dict[str, Any]) -> None:
    assert apply(ImageConfig(), changes) == ImageConfig(**expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("SHELL [a]", "SHELL is not a valid change command"),
        ("STOPSIGNAL", "STOPSIGNAL requires at least one argument"),
        ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
        ("STOPSIGNAL 99", "invalid signal: 99"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=b C", 'Syntax error - can\'t find = in "C". Must be of the form: name=value'),
        ("ENV =b", "ENV names can not be blank"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("EXPOSE 9-8", "invalid range specified for port: 9-8"),
        ("EXPOSE 70000", "invalid range specified for port: 70000"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --nope=1 CMD a", "Unknown flag: nope"),
        ("LABEL a='x", "cannot parse"),
    ],
)
def test_refusals(change: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        apply(ImageConfig(), [change])
    assert str(caught.value).startswith(message)


@given(
    st.sampled_from(["CMD", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "VOLUME", "WORKDIR"]), st.text(max_size=60)
)
def test_any_text_is_applied_or_refused(word: str, text: str) -> None:
    try:
        apply(ImageConfig(), [f"{word} {text}"])
    except InvalidParameter:
        pass
