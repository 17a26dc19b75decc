"""The command `manifest` of docker and of orlop, with one registry: the same output, files and content at the registry."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.test_client_parity import VERSION
from tests.registry import Attested, Registry, image, index, layer, push, push_index, running
from tests.registry.tls import certificate
from tests.registry.tokens import PASSWORD, USER, with_tokens

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not shutil.which("docker") or not shutil.which("docker-registry"), reason="no docker to compare with"
    ),
]

AMD = image([layer({"a": b"1"})], platform={"os": "linux", "architecture": "amd64"})
ARM = image([layer({"a": b"2"})], platform={"os": "linux", "architecture": "arm", "variant": "v7"})
OCI = image([layer({"a": b"3"}, oci=True)], platform={"os": "linux", "architecture": "s390x"}, oci=True)
ABOUT = Attested(OCI)
ORLOP = [sys.executable, "-m", "orlop_cli"]
INSECURE = ("create", "push", "inspect")

SCRIPT = """\
create R/team/app:all R/team/app:amd R/team/app:s390
create R/team/app:all R/team/app:amd
create --amend R/team/app:all R/other/app:arm
create R/x:y R/team/app:nope
create R/x:y 'Bad Name'
create 'Bad Name' R/team/app:amd
create R/x:y R/team/app:index
inspect R/team/app:all
inspect -v R/team/app:all
inspect R/team/app:amd
inspect -v R/team/app:amd
inspect -v R/team/app:s390
inspect R/team/app:index
inspect -v R/team/app:index
inspect R/team/app:about
inspect -v R/team/app:about
inspect R/team/app:all R/team/app:amd
inspect R/team/app:all R/team/app:zz
inspect no:x R/team/app:zz
inspect R/team/app:nope
inspect R/nothing
annotate R/team/app:all R/team/app:amd --arch arm64 --variant v8 --os-version 1.2 --os-features a,b --os-features c,b
annotate R/team/app:all R/team/app:amd --os bogus
annotate R/team/app:all R/team/app:amd --arch bogus
annotate R/team/app:all R/team/app:zz --arch arm64
annotate no/list R/team/app:zz --arch arm64
annotate R/team/app:all 'Bad Name' --arch arm64
inspect R/team/app:all
inspect -v R/team/app:all R/team/app:amd
push R/team/app:all
push no/list
inspect R/team/app:all
push -p R/team/app:all
inspect -v R/team/app:all
rm R/team/app:all
rm R/team/app:all no/list 'Bad Name'
create R/team/app:all R/team/app:all
create R/team/one:1 R/team/app@DIGEST
inspect -v R/team/one:1
rm R/team/one:1
create R/team/oci:1 R/team/app:s390 R/team/app:amd
push R/team/oci:1
create elsewhere.example/team/app:1 R/team/app:amd
inspect elsewhere.example/team/app:1
push elsewhere.example/team/app:1
""".splitlines()


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with running() as registry:
        push(registry.host, "team/app", "amd", AMD)
        push(registry.host, "team/app", "s390", OCI)
        push(registry.host, "other/app", "arm", ARM)
        push(registry.host, "team/app", "", ARM)
        push_index(registry.host, "team/app", "index", index([AMD, ARM]), (AMD, ARM))
        ABOUT.push(registry, "team/app", "about")
        yield registry


def call(program: list[str], home: Path, *words: str) -> tuple[int, str, str]:
    environment = {**os.environ, "DOCKER_CONFIG": str(home), "DOCKER_HOST": "unix:///no/daemon"}
    environment.pop("ORLOP_HOST", None)
    done = subprocess.run([*program, "manifest", *words], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, re.sub("(?m)^orlop: |^docker: ", "", done.stderr)


def lines(host: str) -> Iterator[list[str]]:
    for line in SCRIPT:
        words = shlex.split(re.sub(r"\bR/", f"{host}/", line.replace("DIGEST", AMD.manifest.digest)))
        yield [*words[:1], *(["--insecure"] if words[0] in INSECURE else []), *words[1:]]


def files(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    version = subprocess.run(["docker", "--version"], capture_output=True, text=True, check=True).stdout
    if VERSION not in version:
        pytest.skip(f"the output is that of docker {VERSION}x, installed is {version.strip()}")
    theirs, ours = tmp_path / "docker", tmp_path / "orlop"
    theirs.mkdir()
    ours.mkdir()
    return theirs, ours


def test_manifest_commands_of_orlop_print_and_store_the_same_as_those_of_docker(
    registry: Registry, homes: tuple[Path, Path]
) -> None:
    for words in lines(registry.host):
        expected = call(["docker"], homes[0], *words)
        assert call(ORLOP, homes[1], *words) == expected, words
        assert files(homes[1]) == files(homes[0]), words
    assert f'"{ARM.manifest.digest}"' in call(ORLOP, homes[1], "inspect", "--insecure", f"{registry.host}/team/app:all")[1]


def test_docker_and_orlop_can_push_manifest_lists_that_the_other_has_made(
    registry: Registry, homes: tuple[Path, Path]
) -> None:
    host, digests = registry.host, []
    for tag, maker, pusher in (("x", ORLOP, ["docker"]), ("y", ["docker"], ORLOP)):
        target, source = f"{host}/mixed/app:{tag}", f"{host}/other/app:arm"
        assert call(maker, homes[0], "create", "--insecure", target, source)[0] == 0
        code, out, _ = call(pusher, homes[0], "push", "--insecure", target)
        assert code == 0
        digests.append(out.splitlines()[-1])
    assert digests[0] == digests[1]
    with urllib.request.urlopen(f"http://{host}/v2/mixed/app/manifests/{ARM.manifest.digest}", timeout=30) as answer:
        assert answer.read() == ARM.manifest.data  # the image was mounted and pushed, byte for byte


def test_registry_without_tls_is_refused_without_the_flag_insecure(registry: Registry, homes: tuple[Path, Path]) -> None:
    """Without `--insecure`, the client accepts no registry without TLS, and its error names the flag."""
    name = f"{registry.host}/team/app:amd"
    theirs, ours = call(["docker"], homes[0], "inspect", name), call(ORLOP, homes[1], "inspect", name)
    assert theirs == (1, "", f"no such manifest: {name}\n")
    assert ours == (
        1,
        "",
        f"no such manifest: {name}\nthe registry {registry.host} does not use TLS; use --insecure to allow this\n",
    )


def test_manifest_lists_are_pushed_with_a_token(registry: Registry, homes: tuple[Path, Path], tmp_path: Path) -> None:
    service_home = tmp_path / "service"
    service_home.mkdir()
    with with_tokens(service_home) as (private, service):
        shutil.copytree(f"{registry.root}/data", f"{private.root}/data", dirs_exist_ok=True)
        target, source = f"{private.host}/team/list:1", f"{private.host}/team/app:amd"
        code, _, err = call(ORLOP, homes[1], "create", "--insecure", target, source)
        assert code == 1 and f"run: orlop login {private.host}" in err
        auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        for home in homes:
            (home / "config.json").write_text(json.dumps({"auths": {private.host: {"auth": auth}}}))
        for words in (["create", "--insecure", target, source], ["push", "--insecure", target]):
            expected = call(["docker"], homes[0], *words)
            assert expected[0] == 0
            service.asked.clear()
            assert call(ORLOP, homes[1], *words) == expected
        scopes = [scopes for user, scopes in service.asked if user == USER]
        assert scopes == [
            ["repository:team/list:pull,push", "repository:team/app:pull"],
            ["repository:team/list:pull,push"],
        ]


def test_certificate_of_a_registry_is_verified_unless_insecure_is_given(homes: tuple[Path, Path], tmp_path: Path) -> None:
    certificate(tmp_path)
    tls = f"  tls:\n    certificate: {tmp_path}/server.pem\n    key: {tmp_path}/server.key\n"
    with running(extra=tls) as registry:
        name = f"{registry.host}/team/app:amd"
        code, _, err = call(ORLOP, homes[1], "inspect", name)
        assert code == 1 and "CERTIFICATE_VERIFY_FAILED" in err
        for program, home in ((["docker"], homes[0]), (ORLOP, homes[1])):
            assert call(program, home, "inspect", "--insecure", name) == (1, "", f"no such manifest: {name}\n")
