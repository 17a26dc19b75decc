"""Log drivers that send to a service: equal containers of dockerd and Orlop send equal data to recording services."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine, until
from tests.integration.log_services import Collector, unpack
from tests.integration.parity import Side, both

from orlop_sdk.testing import RecordingService
from orlop_sdk.testing.ports import free_port

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to compare with")]

SCRIPT = r"""
printf 'one\n\ntwo "q" <&> \\ \303\244\n   \n'; printf '\377bad\n'; printf '{"a": [1, 2.50]}\n'
head -c 40000 /dev/zero | tr '\0' x; echo; sleep .3; echo error >&2; sleep .3; printf last
"""
ATTRIBUTES = {"labels": "tier,odd.name-x", "env": "MODE", "labels-regex": "^role"}
LABELS = {"tier": "front", "odd.name-x": "y", "role": "web", "other": "z"}


def ran(side: Side, driver: str, options: dict[str, str], script: str = SCRIPT) -> None:
    """Run a container to its end."""
    config = {"Env": ["MODE=prod", "HIDDEN=1"], "Labels": LABELS}
    log = {"LogConfig": {"Type": driver, "Config": options}, "NetworkMode": "none"}
    side.create("log-sender", ["sh", "-c", script], config, log, True)
    side.api("POST", "/containers/log-sender/wait")
    assert side.inspect("log-sender")["State"]["ExitCode"] == 0


@contextmanager
def removed(side: Side) -> Iterator[None]:
    try:
        yield
    finally:
        side.api("DELETE", "/containers/log-sender?force=1")


def settled(records: Callable[[], int], least: int) -> None:
    """Wait until the service has received all data, because dockerd closes its log drivers after its answer to a wait."""
    seen = [-1] * 20

    def stands_still() -> bool:
        seen.append(records())
        return seen[-1] >= least and len(set(seen[-20:])) == 1

    until(stands_still, "the service has received everything")


def sent(
    sides: tuple[Side, Side], kind: str, path: Path, driver: str, options: dict[str, str]
) -> tuple[list[bytes], list[bytes]]:
    """The datagrams that dockerd and Orlop send, or the data of each connection. Empty data is left out."""

    def do(side: Side) -> list[bytes]:
        recorder = RecordingService(kind, path=str(path / side.name) if kind.startswith("unix") else "")
        key = f"{driver}-address"
        try:
            with removed(side):
                ran(side, driver, {**options, key: recorder.address})
                settled(lambda: sum(map(len, recorder.records)), 100)
            return [record for record in recorder.records if record]
        finally:
            recorder.close()

    return both(sides, do)


SYSLOG = [
    ("udp", {}),
    ("tcp", {"syslog-format": "rfc5424"}),
    ("unix", {"syslog-format": "rfc3164", "syslog-facility": "local3", "tag": "{{.Name}}/{{.ImageName}}"}),
    ("unixgram", {"syslog-format": "rfc5424micro", "syslog-facility": "4", "tag": "{{.Hostname}} x", **ATTRIBUTES}),
]


@pytest.mark.parametrize("kind, options", SYSLOG, ids=[kind for kind, _ in SYSLOG])
def test_syslog_messages_are_the_same_as_those_of_dockerd(
    sides: tuple[Side, Side], tmp_path: Path, kind: str, options: dict[str, str]
) -> None:
    def plain(records: list[bytes]) -> bytes:
        data = re.sub(rb"\b[0-9a-f]{12}\b", b"ID", b"\1".join(records))
        data = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?(Z|[+-]\d\d:\d\d)", rb"TIME\2", data)
        data = re.sub(rb">[A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d ", b">TIME ", data)
        return re.sub(rb"\[\d+\]:|(?<= )\d+(?= \S+( x)? - )", b"PID", data)

    theirs, ours = sent(sides, kind, tmp_path, "syslog", options)
    assert plain(theirs) == plain(ours)
    assert b"".join(ours).count(b"last") == 1


@pytest.mark.parametrize("kind, options", [("udp", ATTRIBUTES), ("udp", {"gelf-compression-type": "none"}), ("tcp", {})],
                         ids=["compressed", "chunks", "tcp"])  # fmt: skip
def test_gelf_messages_are_the_same_as_those_of_dockerd(
    sides: tuple[Side, Side], tmp_path: Path, kind: str, options: dict[str, str]
) -> None:
    def messages(records: list[bytes]) -> list[dict[str, Any]]:
        parts = b"".join(records).split(b"\0") if kind == "tcp" else _assembled(records)
        found = [json.loads(zlib.decompress(part, 47) if part[:1] != b"{" else part) for part in parts if part]
        for message in found:
            assert isinstance(message.pop("timestamp"), float | int)
            for name in ("_container_id", "_created", "_image_id", "_tag"):
                assert message.pop(name)
        return found

    theirs, ours = map(messages, sent(sides, kind, tmp_path, "gelf", options))
    assert theirs == ours
    assert [message["level"] for message in ours].count(3) == 1


def _assembled(datagrams: list[bytes]) -> list[bytes]:
    """The messages, whose chunks have a header of 12 bytes: two fixed bytes, an identifier, a number and a count."""
    found: list[bytes] = []
    for datagram in datagrams:
        is_chunk = datagram.startswith(b"\x1e\x0f")
        if is_chunk and datagram[10]:
            found[-1] += datagram[12:]
        else:
            found.append(datagram[12:] if is_chunk else datagram)
    return found


@pytest.mark.parametrize("kind, options", [("tcp", ATTRIBUTES), ("unix", {"fluentd-sub-second-precision": "true"})],
                         ids=["tcp", "unix"])  # fmt: skip
def test_fluentd_messages_are_the_same_as_those_of_dockerd(
    sides: tuple[Side, Side], tmp_path: Path, kind: str, options: dict[str, str]
) -> None:
    def entries(records: list[bytes]) -> list[Any]:
        found = unpack(b"".join(records))
        for tag, time, record, _ in found:
            assert re.fullmatch(rb"[0-9a-f]{12}", tag)
            assert isinstance(time, tuple) is (kind == "unix")
            record[b"container_id"] = len(record[b"container_id"])
            if b"partial_id" in record:
                record[b"partial_id"] = len(record[b"partial_id"])
        return [(record, option) for _, _, record, option in found]

    theirs, ours = map(entries, sent(sides, kind, tmp_path, "fluentd", options))
    assert theirs == ours
    assert [record[b"partial_ordinal"] for record, _ in ours if b"partial_id" in record] == [b"1", b"2", b"3", b"1"]


@pytest.mark.parametrize("form", ["inline", "json", "raw"])
def test_splunk_events_are_the_same_as_those_of_dockerd(sides: tuple[Side, Side], form: str) -> None:
    def do(side: Side) -> Any:
        collector = Collector()
        options = {
            "splunk-url": collector.address,
            "splunk-token": "secret",
            "splunk-format": form,
            "splunk-index": "main",
            "splunk-source": "src" if form == "raw" else "",
            "splunk-gzip": "true" if form == "json" else "false",
            "tag": "" if form == "inline" else "{{.Name}}",
            **(ATTRIBUTES if form != "json" else {}),
        }
        try:
            with removed(side):
                ran(side, "splunk", options)
                settled(lambda: len(collector.events), 5)
        finally:
            collector.close()
        for event in collector.events:
            assert re.fullmatch(r"\d+\.\d{6}", event.pop("time"))
        if form == "raw":  # dockerd writes the attributes in the random order of a map
            for event in collector.events:
                words = event["event"].split(" ")
                event["event"] = " ".join([words[0], *sorted(words[1:5]), *words[5:]])
        wanted = {"authorization", "content-encoding"}
        headers = {name.lower(): value for name, value in collector.headers[0].items() if name.lower() in wanted}
        return collector.events, headers

    theirs, ours = both(sides, do)
    assert theirs == ours


WRONG = [
    ("syslog", {"x": "y"}),
    ("syslog", {"syslog-address": "foo://x"}),
    ("syslog", {"syslog-address": "unix:///nope"}),
    ("syslog", {"syslog-address": "justtext"}),
    ("syslog", {"syslog-address": "udp://1.2.3.4:a:b"}),
    ("syslog", {"syslog-facility": "nope"}),
    ("syslog", {"syslog-facility": "24"}),
    ("syslog", {"syslog-facility": "-1"}),
    ("syslog", {"syslog-format": "nope"}),
    ("gelf", {}),
    ("gelf", {"gelf-address": "foo://x"}),
    ("gelf", {"gelf-address": "udp://x"}),
    ("gelf", {"gelf-address": "x:1"}),
    ("gelf", {"gelf-address": "udp://127.0.0.1:1", "gelf-compression-type": "bz"}),
    ("gelf", {"gelf-address": "udp://127.0.0.1:1", "gelf-compression-level": "77"}),
    ("gelf", {"gelf-address": "udp://127.0.0.1:1", "gelf-compression-level": "x"}),
    ("gelf", {"gelf-address": "udp://127.0.0.1:1", "gelf-tcp-max-reconnect": "1"}),
    ("gelf", {"gelf-address": "tcp://127.0.0.1:1", "gelf-compression-type": "gzip"}),
    ("gelf", {"gelf-address": "tcp://127.0.0.1:1", "gelf-tcp-max-reconnect": "-1"}),
    ("gelf", {"gelf-address": "tcp://127.0.0.1:1", "gelf-tcp-reconnect-delay": "x"}),
    ("fluentd", {"x": "y"}),
    ("fluentd", {"fluentd-address": "foo://x"}),
    ("fluentd", {"fluentd-address": "host:port"}),
    ("fluentd", {"fluentd-address": "unix://"}),
    ("fluentd", {"fluentd-address": "tcp://a:1/path"}),
    ("fluentd", {"fluentd-async": "x"}),
    ("fluentd", {"fluentd-buffer-limit": "x"}),
    ("fluentd", {"fluentd-retry-wait": "x"}),
    ("fluentd", {"fluentd-max-retries": "x"}),
    ("fluentd", {"fluentd-async-reconnect-interval": "1ms"}),
    ("fluentd", {"fluentd-sub-second-precision": "x"}),
    ("fluentd", {"fluentd-request-ack": "x"}),
    ("splunk", {"x": "y"}),
    ("journald", {"x": "y"}),
]


def test_wrong_log_options_are_refused_as_by_dockerd(sides: tuple[Side, Side]) -> None:
    def do(side: Side) -> Any:
        found = []
        for driver, options in WRONG:
            log = {"Type": driver, "Config": options}
            body = {"Image": "busybox", "HostConfig": {"LogConfig": log}}
            status, answer = side.api("POST", "/containers/create?name=log-sender", body)
            found.append((driver, options, status, answer.get("message")))
            if status == 201:
                side.api("DELETE", "/containers/log-sender")
        return found

    theirs, ours = both(sides, do)
    assert theirs == ours


def test_docker_logs_reads_the_local_copy_of_a_log_that_goes_to_a_service(shared: Engine) -> None:
    recorder = RecordingService("udp")
    try:
        options = ["--log-driver=syslog", f"--log-opt=syslog-address={recorder.address}"]
        script = "echo out; echo err >&2"
        shared.ok("run", "--network=none", "--name=log-copy", *options, "busybox", "sh", "-c", script)
        shown = shared.docker("logs", "log-copy")
        assert (shown.out, shown.err) == ("out\n", "err\n")
        off = "--log-opt=cache-disabled=true"
        shared.ok("run", "--network=none", "--name=log-no-copy", *options, off, "busybox", "true")
        refused = shared.docker("logs", "log-no-copy")
        assert (refused.code, "configured logging driver does not support reading" in refused.err) == (1, True)
    finally:
        recorder.close()
        shared.docker("rm", "-f", "log-copy", "log-no-copy")


@pytest.mark.skipif(not shutil.which("rsyslogd"), reason="rsyslogd is not installed")
def test_rsyslog_receives_all_lines(shared: Engine, tmp_path: Path) -> None:

    ports, out = {"udp": free_port(), "tcp": free_port()}, tmp_path / "out"
    template = '"%syslogfacility-text% %syslogseverity-text% %app-name% %msg%\\n"'
    (tmp_path / "conf").write_text(
        f'global(workDirectory="{tmp_path}")\nmodule(load="imudp")\nmodule(load="imtcp")\n'
        f'input(type="imudp" address="127.0.0.1" port="{ports["udp"]}")\n'
        f'input(type="imtcp" address="127.0.0.1" port="{ports["tcp"]}")\n'
        f'template(name="t" type="string" string={template})\n*.* action(type="omfile" file="{out}" template="t")\n'
    )
    argv = ["rsyslogd", "-n", "-f", str(tmp_path / "conf"), "-i", str(tmp_path / "pid")]
    service = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        until((tmp_path / "pid").exists, "rsyslogd runs")
        for kind, form in (("tcp", "rfc5424"), ("tcp", "rfc3164"), ("udp", "rfc5424micro")):
            options = {"syslog-address": f"{kind}://127.0.0.1:{ports[kind]}", "syslog-format": form, "tag": form}
            flags = [f"--log-opt={key}={value}" for key, value in options.items()]
            script = "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done; sleep .2; echo bad >&2"
            argv = ["run", "--rm", "--network=none", "--log-driver=syslog", *flags, "busybox", "sh", "-c", script]
            shared.ok(*argv)
            wanted = [f"daemon info {form} line {n}" for n in range(1000)] + [f"daemon err {form} bad"]

            def received(form: str = form) -> list[str]:
                lines = out.read_text().splitlines() if out.exists() else []
                return [" ".join(line.split()) for line in lines if form in line]

            if kind == "tcp":
                until(lambda: received() == wanted, f"{form} over {kind}")  # noqa: B023  called in this turn
            else:  # datagrams are lost if the service is not scheduled for a while
                until(received, form)
                assert set(received()) <= set(wanted)
    finally:
        service.terminate()
        service.wait(10)


def test_log_service_that_is_down_does_not_block_containers(shared: Engine) -> None:
    """The container's start, output and end do not wait for the service."""
    options = ["--log-driver=syslog", "--log-opt=syslog-address=tcp://127.0.0.1:1"]
    script = "head -c 30000000 /dev/zero | tr '\\0' '\\n'; echo done >&2"
    done = shared.docker("run", "--rm", "--network=none", *options, "busybox", "sh", "-c", script)
    assert (done.code, done.err) == (0, "done\n")
