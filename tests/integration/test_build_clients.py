"""Builds by the real clients, compared with dockerd: docker build, buildx, bake, compose. Their output must be the same."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.integration.building.clients import Client, Clients, build_clients
from tests.integration.engine import Engine, Result, patience, until
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SIMPLE = 'FROM busybox\nRUN echo built | tee /made\nCOPY file /copied\nCMD ["cat", "/made", "/copied"]\n'
STAGES = """FROM busybox AS one
RUN echo first > /one
FROM busybox AS two
RUN echo second > /two
FROM scratch
COPY --from=one /one /
COPY --from=two /two /
"""


@pytest.fixture
def clients(shared: Engine, sides: tuple[Side, Side], tmp_path: Path) -> Iterator[Clients]:
    with build_clients(shared, sides, tmp_path) as found:
        found.write("file", "from the context\n")
        yield found


def steps(result: Result) -> list[str]:
    """The steps of a build in plain progress, without numbers, times, digests and the order in which they ran."""
    found = set()
    for line in result.err.splitlines():
        line = re.sub(r"^#\d+ ", "", line)
        line = re.sub(r"@sha256:[0-9a-f]{64}", "", re.sub(r"\d+\.\d+s?\b", "T", line))
        if line.startswith("[") and "[internal]" not in line and " FROM " not in line:  # not steps that stages share
            found.add(line)
    return sorted(found)


def failure(result: Result) -> list[str]:
    """The output after the first ruler line: the failed step, its output, the lines of the Dockerfile, and the error."""
    text = re.sub(r"^\d+\.\d+ ", "T ", result.err, flags=re.MULTILINE)
    return text[text.index("------\n") :].splitlines()


def processes(engine: Engine, text: str) -> list[str]:
    """Processes in the engine's containers with this text in their command line."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            group = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if text.encode() in line and engine.cgroup_parent in group:
            found.append(pid)
    return found


def nothing_left(engine: Engine) -> None:
    """The consistency check finds no mount, cgroup, link or file of a build."""
    engine.until_sound()
    assert not [path for path in engine.data_root.glob("build/view-*") if path.is_mount()]


def test_simple_build_prints_the_same_steps_as_dockerd(clients: Clients) -> None:
    clients.write("Dockerfile", SIMPLE)
    results = [each.build("-t", "tb-simple", "--iidfile", "id", ".") for each in clients]
    for each, result in zip(clients, results, strict=True):
        assert result.code == 0, result.err
        assert "built\n" in result.err
        image = each.ok("image", "inspect", "-f", "{{.Id}}", "tb-simple").line
        assert (each.directory / "id").read_text() == image
        assert each.ok("run", "--rm", "--network=none", "tb-simple").out == "built\nfrom the context\n"
    assert steps(results[1]) == steps(results[0])
    again = clients.orlop.build("-t", "tb-simple", ".")
    assert again.err.count("CACHED") >= 3
    assert (
        clients.orlop.ok("image", "inspect", "-f", "{{.Id}}", "tb-simple").line
        == (clients.orlop.directory / "id").read_text()
    )


def test_build_stages_can_be_exported_to_a_directory_and_a_tar(clients: Clients) -> None:
    clients.write("Dockerfile", STAGES)
    clients.same(lambda each: steps(each.build("-o", "type=local,dest=out", ".")))
    for each in clients:
        assert sorted(path.name for path in (each.directory / "out").iterdir()) == ["one", "two"]
        assert (each.directory / "out" / "two").read_text() == "second\n"
    archives = [each.ok("build", "-q", "-o", "-", ".").stdout for each in clients]
    shown = []
    for data in archives:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            shown.append([(m.name, m.size, m.mode, m.uid, m.gid, m.type) for m in archive])
    assert shown[1] == shown[0]


def test_error_of_a_failed_step_shows_its_lines_of_the_dockerfile(clients: Clients) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN true\nRUN echo out; \\\n  exit 7\nRUN echo never\n")
    lines = clients.same(lambda each: failure(each.build(".")))
    assert isinstance(lines, list)
    assert "   3 | >>> RUN echo out; \\" in lines
    assert lines[-1].endswith("did not complete successfully: exit code: 7")


@pytest.mark.parametrize(
    "text",
    [
        "FROM busybox\nCOPY missing /x\n",
        "FROM busybox\nNOSUCH x\n",
        "RUN true\n",
        "",
    ],
)
def test_errors_of_a_build_equal_the_errors_of_dockerd(clients: Clients, text: str) -> None:
    clients.write("Dockerfile", text)

    def error(each: Client) -> tuple[int, str]:
        result = each.build(".")
        line = result.err.strip().splitlines()[-1]
        return result.code, re.sub(r"checksum of ref \S+:", "checksum of ref REF:", line)

    clients.same(error)


def test_interrupted_builds_leave_no_process_mount_or_link(clients: Clients, shared: Engine) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN echo started; sleep 31337\n")

    def interrupted(each: Client) -> tuple[int, str]:
        child = each.start("build", "--progress=plain", "--no-cache", ".")
        assert child.stdout is not None
        seen = b""
        while b" started" not in seen:
            line = child.stdout.readline()
            assert line, seen
            seen += line
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=patience(30))
        return child.returncode, rest.decode().strip().splitlines()[-1]

    code, line = clients.same(interrupted)  # type: ignore[misc]
    assert code == 1
    assert line.endswith("Canceled: context canceled")
    until(lambda: not processes(shared, "31337"), "the end of the step")
    nothing_left(shared)


def test_build_is_ended_when_its_client_is_killed(clients: Clients, shared: Engine) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN sleep 31338\n")
    child = clients.orlop.start("build", "--no-cache", ".")
    until(lambda: processes(shared, "31338"), "the step")
    for pid in [child.pid, *_children(child.pid)]:
        os.kill(pid, signal.SIGKILL)
    child.communicate()
    until(lambda: not processes(shared, "31338"), "the end of the step")
    nothing_left(shared)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(each) for each in text.split()]


def test_secrets_are_mounted_and_not_stored(clients: Clients) -> None:
    clients.write("secret", "s3cret")
    clients.write(
        "Dockerfile",
        "FROM busybox\n"
        "RUN --mount=type=secret,id=s,uid=5,mode=0440 cat /run/secrets/s | tr a-z A-Z; stat -c '%u %a' /run/secrets/s\n"
        "RUN --mount=type=secret,id=none cat /run/secrets/none || echo none\n"
        "RUN ls -A /run 2>/dev/null | wc -l\n",
    )
    for each in clients:
        result = each.build("--no-cache", "-t", "tb-secret", "--secret", "id=s,src=secret", ".")
        assert result.code == 0, result.err
        assert "S3CRET" in result.err
        assert "5 440" in result.err
        assert "s3cret" not in each.ok("history", "--no-trunc", "tb-secret").out
    clients.write("Dockerfile", "FROM busybox\nRUN --mount=type=secret,id=none,required=true true\n")
    clients.same(lambda each: each.build(".").err.strip().splitlines()[-1])


def test_ssh_agent_is_forwarded_to_a_step(clients: Clients, tmp_path: Path) -> None:
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        until(socket.exists, "the agent")
        # A request for the keys (11), and the beginning of the answer (12)
        ask = r"printf '\0\0\0\1\13' | nc local:$SSH_AUTH_SOCK -w 2 | od -An -tu1 -N5"
        clients.write("Dockerfile", f"FROM busybox\nRUN --mount=type=ssh {ask}\n")
        for each in clients:
            each.env["SSH_AUTH_SOCK"] = str(socket)
        shown = [each.build("--no-cache", "--ssh", "default", ".") for each in clients]
        assert [result.code for result in shown] == [0, 0], shown[1].err
        answers = [re.findall(r"^#\d+ \d+\.\d+ (.*)$", result.err, re.MULTILINE) for result in shown]
        assert answers[1] == answers[0]
        clients.write("Dockerfile", "FROM busybox\nRUN --mount=type=ssh,required=true true\n")
        for each in clients:
            each.env.pop("SSH_AUTH_SOCK")
        clients.same(lambda each: each.build(".").err.strip().splitlines()[-1])
    finally:
        agent.terminate()
        agent.wait()


def test_dockerfile_is_read_from_standard_input(clients: Clients) -> None:
    assert clients.same(lambda each: each.build("-f", "-", ".", stdin=SIMPLE.encode()).code) == 0
    only = b"FROM busybox\nRUN echo alone\n"
    assert "alone" in str(clients.same(lambda each: steps(each.build("-", stdin=only))))


@pytest.mark.parametrize("kind", ["", "gz"])
def test_context_archive_is_read_from_standard_input(clients: Clients, kind: str) -> None:
    clients.write("Dockerfile", SIMPLE)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{kind}", format=tarfile.GNU_FORMAT) as archive:
        for name in ("Dockerfile", "file"):
            archive.add(clients.orlop.directory / name, name)
    data = packed.getvalue()
    for each in clients:
        result = each.build("-t", "tb-tar", "-", stdin=data)
        assert result.code == 0, f"{each.name}: {result.err}"
        assert each.ok("run", "--rm", "--network=none", "tb-tar").out == "built\nfrom the context\n"


def test_raw_progress_and_metadata_are_complete(clients: Clients) -> None:
    clients.write("Dockerfile", SIMPLE)
    for each in clients:
        result = each.ok("build", "--progress=rawjson", "--no-cache", "--metadata-file", "meta", "-t", "tb-raw", ".")
        decoder, text, vertexes, logs = json.JSONDecoder(), result.err, {}, b""
        while text := text.lstrip():
            found, end = decoder.raw_decode(text)
            text = text[end:]
            vertexes.update({each["digest"]: each for each in found.get("vertexes") or ()})
            logs += b"".join(base64.b64decode(each["data"]) for each in found.get("logs") or ())
        assert all(vertex.get("completed") for vertex in vertexes.values()), each.name
        assert logs == b"built\n"
        metadata = json.loads((each.directory / "meta").read_text())
        image = each.ok("image", "inspect", "-f", "{{.Id}}", "tb-raw").line
        assert metadata["containerimage.config.digest"] == image
        assert metadata["image.name"] == "docker.io/library/tb-raw"


def test_long_output_of_a_step_is_clipped_as_by_dockerd(clients: Clients) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN yes 0123456789 | head -c 9000000; sleep 2; echo end\n")

    def clipped(each: Client) -> list[str]:
        result = each.build("--no-cache", ".")
        assert result.code == 0, result.err[-1000:]
        assert len(result.err) < 3_000_000
        return re.findall(r"\[output clipped.*", result.err)

    clients.same(clipped)


def test_only_changed_files_of_a_context_are_sent_again(clients: Clients, shared: Engine) -> None:
    client = clients.orlop
    clients.write("Dockerfile", "FROM scratch\nCOPY . /\n")
    many = client.directory / "many"
    for number in range(10_000):
        path = many / str(number % 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content {number}")
    assert client.build("-t", "tb-many", ".").code == 0
    [kept] = [path for path in shared.data_root.rglob("many") if "contexts" in path.parts and (path / "7" / "7").exists()]

    def changes() -> dict[str, int]:
        return {str(path.relative_to(kept)): path.stat().st_ctime_ns for path in kept.rglob("*") if path.is_file()}

    before = changes()
    assert len(before) == 10_000
    (many / "5" / "5").write_text("changed")
    result = client.build("-t", "tb-many", ".")
    assert result.code == 0, result.err
    after = changes()
    assert [name for name in after if after[name] != before[name]] == ["5/5"]
    assert (kept / "5" / "5").read_text() == "changed"
    unchanged = client.build("-t", "tb-many", ".")
    assert changes() == after
    assert "CACHED" in unchanged.err


def test_bake_can_build_a_target_from_another_target(clients: Clients) -> None:
    clients.write(
        "docker-bake.hcl",
        'group "default" {\n  targets = ["a", "b"]\n}\n'
        'target "a" {\n  dockerfile-inline = "FROM busybox\\nRUN echo a > /a"\n  tags = ["tb-bake-a"]\n}\n'
        'target "b" {\n  contexts = { base = "target:a" }\n  dockerfile-inline = "FROM base\\nRUN cat /a > /b"\n'
        '  tags = ["tb-bake-b"]\n}\n',
    )
    for each in clients:
        each.ok("buildx", "bake", "--progress=plain")
        assert each.ok("run", "--rm", "--network=none", "tb-bake-b", "cat", "/b").out == "a\n"


def test_compose_builds_images(clients: Clients) -> None:
    clients.write("Dockerfile", STAGES)
    clients.write(
        "compose.yaml",
        "services:\n  web: {build: ., image: tb-web}\n"
        '  db: {build: {dockerfile_inline: "FROM busybox\\nRUN echo db > /db"}, image: tb-db}\n',
    )
    for each in clients:
        each.ok("compose", "build")
        assert each.ok("run", "--rm", "--network=none", "tb-db", "cat", "/db").out == "db\n"


def test_build_cache_is_listed_and_pruned(clients: Clients) -> None:
    clients.write("Dockerfile", SIMPLE)
    client = clients.orlop
    assert client.build(".").code == 0

    def records(*options: str) -> Sequence[str]:
        return re.findall(r"^ID:\s+(\S+)", client.ok("buildx", "du", "--verbose", *options).out, re.MULTILINE)

    assert len(records()) >= 4
    assert 0 < len(records("--filter", "type=source.local")) < len(records())
    assert "regular" in client.ok("buildx", "du", "--verbose").out
    shown = client.ok("system", "df", "-v").out
    assert records()[0][:12] in shown
    pruned = client.ok("buildx", "prune", "-af").out
    assert "Total:" in pruned
    assert records() == []
    assert client.build(".").code == 0
    client.ok("builder", "prune", "-af")
    assert records() == []


def test_prune_without_all_keeps_cached_layers_that_images_use(clients: Clients) -> None:
    """As in dockerd, `prune` without --all keeps layers of images, because their removal would free no space."""
    clients.write("Dockerfile", "FROM busybox\nRUN echo shared > /shared\nCOPY file /shared\n")

    def cached(each: Client, *options: str) -> list[tuple[str, str]]:
        text = each.ok("buildx", "du", "--verbose", *options).out
        found = re.findall(r"^Shared:\s+(\w+)\nSize:.*\nDescription:\s+(.*)$", text, re.MULTILINE)
        return sorted({(shared, words.split(" ")[0]) for shared, words in found if "/shared" in words})

    for each in clients:
        each.ok("builder", "prune", "-af")
        assert each.build("-t", "tb-shared", ".").code == 0
    kept = clients.same(cached)
    assert isinstance(kept, list) and {shared for shared, _ in kept} == {"true"}
    clients.same(lambda each: cached(each, "--filter", "shared=true"))
    assert clients.same(lambda each: cached(each, "--filter", "private=true")) == []
    for each in clients:
        each.ok("builder", "prune", "-f")
    assert clients.same(cached) == kept
    for each in clients:
        assert each.build("-t", "tb-shared", ".").err.count("CACHED") >= 2
        each.ok("builder", "prune", "-af")
    assert clients.same(cached) == []
    for each in clients:
        assert each.ok("run", "--rm", "--network=none", "tb-shared", "cat", "/shared").out == "from the context\n"


def test_buildx_shows_the_builder_as_running(clients: Clients) -> None:
    shown = clients.orlop.ok("buildx", "inspect").out
    assert re.search(r"^Status:\s+running$", shown, re.MULTILINE)
    assert "linux/amd64" in shown
    assert "running" in clients.orlop.ok("buildx", "ls").out


def test_equal_builds_at_the_same_time_share_their_steps(clients: Clients) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN sleep 1; cat /proc/sys/kernel/random/uuid > /id; cat /id\n")
    client = clients.orlop
    children = [client.start("build", "--progress=plain", ".") for _ in range(3)]
    shown = [child.communicate(timeout=patience(60))[0].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], shown
    ids = set(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", "".join(shown)))
    assert len(ids) == 1


def test_builds_fail_if_the_builder_process_is_killed(clients: Clients, shared: Engine) -> None:
    clients.write("Dockerfile", "FROM busybox\nRUN sleep 31339\n")
    child = clients.orlop.start("build", "--no-cache", "--progress=plain", ".")
    until(lambda: processes(shared, "31339"), "the step")
    [builder] = shared.children("orlop-builder")
    os.kill(builder, signal.SIGKILL)
    text = child.communicate(timeout=patience(60))[0].decode()
    assert child.returncode != 0
    assert "ERROR" in text
    until(lambda: not processes(shared, "31339"), "the end of the step")
    nothing_left(shared)
    clients.write("Dockerfile", SIMPLE)
    assert clients.orlop.build(".").code == 0
