"""Dockerfile instructions of import and commit."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.images.changes import apply
from orlop_engine.types.images import ImageConfig, ImageHealthcheck
from orlop_sdk import InvalidParameter

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
def test_dockerfile_instructions_change_the_image_configuration(changes: list[str], expected: dict[str, Any]) -> None:
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
        ("HEALTHCHECK --nope=1 CMD a", "unknown flag: nope"),
        ("HEALTHCHECK --retries=x CMD a", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("LABEL a='x", 'failed to process "\'x": unexpected end of statement while looking for matching single-quote'),
        ('ENV "X=a b"', 'failed to process "\\"X": unexpected end of statement while looking for matching double-quote'),
        ('VOLUME "/a b"', 'failed to process "\\"/a": unexpected end of statement while looking for matching double-quote'),
        ("ENV X=${A", 'failed to process "${A": unsupported modifier () in substitution'),
        ("ENV X=${A~}", 'failed to process "${A~}": unsupported modifier (~) in substitution'),
        ("ENV X=${", "failed to process \"${\": syntax error: missing '}'"),
        ("ENV X=${}", 'failed to process "${}": syntax error: bad substitution'),
        ("ENV X=${Z?no}", 'failed to process "${Z?no}": Z: no'),
        ("ENV X=${Z:?}", 'failed to process "${Z:?}": Z: is not allowed to be unset'),
        ("ENV X=${A:-x", 'failed to process "${A:-x": unexpected end of statement while looking for matching }'),
        ('CMD ["a", 1]', "when using JSON array syntax, arrays must be comprised of strings only"),
        ("WORKDIR $Z", "cannot normalize nothing"),
        ("VOLUME $Z", "VOLUME specified can not be an empty string"),
        ("EXPOSE $A/x", "invalid containerPort: /x"),
        ("# nothing", "file with no instructions"),
        ("", "file with no instructions"),
        ("USER a\nRUN b", "RUN is not a valid change command"),
    ],
)
def test_invalid_dockerfile_instructions_are_refused(change: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        apply(ImageConfig(), [change])
    assert str(caught.value).startswith(message)


BASE = ImageConfig(env=["PATH=/bin:/usr/bin", "A=1", "TWO=80 81/udp"], cmd=["sh"], working_dir="/srv")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["ENV PATH=/x:$PATH"], {"PATH": "/x:/bin:/usr/bin"}),
        (["ENV B=$A C=${A} F=$Z G=\"$A x\" H='$A' I=\\$A"], {"B": "1", "C": "1", "F": "", "G": "1 x", "H": "$A", "I": "$A"}),
        (["ENV D=${Z:-dflt} E=${A:+alt} J=${Z:+alt} K=${A:-dflt}"], {"D": "dflt", "E": "alt", "J": "", "K": "1"}),
        (["ENV X=${A-b} Y=${Z-b} W=${Z+b} V=${A+b} U=${A?no}"], {"X": "1", "Y": "b", "W": "", "V": "b", "U": "1"}),
        (["ENV Q the $A rest"], {"Q": "the 1 rest"}),
        (["ENV A=2 B=$A"], {"A": "2", "B": "1"}),
        (["ENV A=2", "ENV B=$A"], {"A": "2", "B": "2"}),
        (["ENV A=2\nENV B=$A"], {"A": "2", "B": "2"}),
        (["ENV $A=k"], {"1": "k"}),
        (["ENV X=$ Y=$1 W=$@ V=$A-$A"], {"X": "$", "Y": "", "W": "", "V": "1-1"}),
        (["ENV X=${Z:-$A} Y=${Z:-${A}}"], {"X": "1", "Y": "1"}),
        (
            ['ENV X=\'a b\' Y=a\\ b W="a\\"b" V="a\\\\b" U="a\\b"'],
            {"X": "a b", "Y": "a b", "W": 'a"b', "V": "a\\b", "U": "a\\b"},
        ),
        (["ENV X=${PATH#/bin} Y=${PATH%bin} W=${A#1}Y"], {"X": ":/usr/bin", "Y": "/bin:/usr/", "W": "Y"}),
        (["ENV V=${PATH##*/} U=${PATH%%:*}"], {"V": "bin", "U": "/bin"}),
        (["ENV W=${PATH#*/} T=${PATH%/*}"], {"W": "bin:/usr/bin", "T": "/bin:/usr"}),
        (["ENV X=${PATH/bin/sbin} Y=${PATH//bin/x}"], {"X": "/sbin:/usr/bin", "Y": "/x:/usr/x"}),
        (["ENV W=${PATH/b?n/} V=${PATH//no/x}"], {"W": "/:/usr/bin", "V": "/bin:/usr/bin"}),
        (["ENV X=1\\\n Y=2"], {"X": "1", "Y": "2"}),
        (["ENV X=1 \\\n# a comment\n\n Y=2"], {"X": "1", "Y": "2"}),
    ],
)
def test_variables_are_expanded_like_in_dockerd(changes: list[str], expected: dict[str, str]) -> None:
    """The expected values are the answers of dockerd 26.1."""
    made = dict(entry.partition("=")[::2] for entry in apply(BASE, changes).env or ())
    assert made == {"PATH": "/bin:/usr/bin", "A": "1", "TWO": "80 81/udp", **expected}


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ('LABEL x=$A y="$A b" $A=k "a b"=c', "labels", {"x": "1", "y": "1 b", "1": "k", "a b": "c"}),
        ("LABEL one two $A", "labels", {"one": "two 1"}),
        ("EXPOSE $A/udp", "exposed_ports", {"1/udp": {}}),
        ("EXPOSE ${A}-3", "exposed_ports", {"1/tcp": {}, "2/tcp": {}, "3/tcp": {}}),
        ("EXPOSE $TWO 9", "exposed_ports", {"80/tcp": {}, "81/udp": {}, "9/tcp": {}}),
        ("EXPOSE $Z", "exposed_ports", None),
        ('VOLUME /v$A "/w$A"', "volumes", {"/v1": {}, "/w1": {}}),
        ('VOLUME ["/v$A"]', "volumes", {"/v1": {}}),
        ("WORKDIR /a/$A", "working_dir", "/a/1"),
        ("WORKDIR sub$A/", "working_dir", "/srv/sub1"),
        ('WORKDIR "/q$A"', "working_dir", "/q1"),
        ("USER u$A", "user", "u1"),
        ("USER 'q$A'", "user", "q$A"),
        ("STOPSIGNAL $A", "stop_signal", "1"),
        ("CMD echo $A", "cmd", ["/bin/sh", "-c", "echo $A"]),
        ('CMD ["echo", "$A"] x', "cmd", ["echo", "$A"]),
        ("ENTRYPOINT echo $A", "entrypoint", ["/bin/sh", "-c", "echo $A"]),
        ("ENTRYPOINT echo $A", "cmd", None),
        ("CMD a\nENTRYPOINT b", "cmd", ["/bin/sh", "-c", "a"]),
        ("ONBUILD RUN echo $A", "on_build", ["RUN echo $A"]),
        ("HEALTHCHECK CMD echo $A", "healthcheck", ImageHealthcheck(["CMD-SHELL", "echo $A"])),
    ],
)
def test_variables_are_expanded_only_in_some_dockerfile_instructions(change: str, field: str, expected: object) -> None:
    assert getattr(apply(BASE, [change]), field) == expected


@pytest.mark.parametrize(
    "changes",
    [
        ["ENV A=xx"] + ["ENV A=$A$A$A$A"] * 40,
        ["ENV X=" + "${A:-" * 1000 + "}" * 1000],
        ["ENV X=" + "a" * 4000] + ["ENV Y=${X##" + "a*?" * 300 + "b}"] * 60,
        ["ENV X=" + "a" * 60_000] + ["ENV Y=${X//a/$X}"] * 10,
        ["EXPOSE 1-65535"] * 4000,
    ],
    ids=["doubling", "nested", "patterns", "replacements", "ports"],
)
def test_variable_expansions_and_port_lists_over_the_size_limit_are_refused(changes: list[str]) -> None:
    began = time.thread_time()
    with pytest.raises(InvalidParameter, match=r"expansion is too large|nested too deeply|cannot expose more"):
        apply(BASE, changes)
    assert time.thread_time() - began < 5


def test_many_instructions_take_linear_time() -> None:
    began = time.thread_time()
    made = apply(ImageConfig(env=[f"E{n}=x" for n in range(100_000)]), [f"ENV A{n}=$E{n}" for n in range(3000)])
    assert len(made.env or ()) == 103_000
    assert time.thread_time() - began < 5


@given(
    st.sampled_from(["CMD", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "VOLUME", "WORKDIR"]), st.text(max_size=60)
)
def test_any_dockerfile_instruction_is_applied_or_refused(word: str, text: str) -> None:
    try:
        apply(ImageConfig(), [f"{word} {text}"])
    except InvalidParameter:
        pass
