"""`orlop_sdk.testing.engine` and its pytest fixtures, as the tests of a driver's author use them."""

from __future__ import annotations

import gc
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import docker
import pytest
from tests.integration.engine import archive, until
from tests.integration.environments import environment

from orlop_kernel.config import instance_of
from orlop_sdk.testing import Engine, EngineError, engine

root = pytest.mark.root
# docker-py does not close the sockets of streams
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def orlop_config():
    return {"labels": ["session=1"]}
"""
COMPLETE = """
import os, docker
from contextlib import closing

def test_session_engine_uses_the_config_of_conftest(orlop_engine):
    assert orlop_engine.load(os.environ["ARCHIVE"]) == ["busybox:latest"]
    assert os.environ["DOCKER_HOST"] == orlop_engine.env["DOCKER_HOST"] == orlop_engine.host
    with closing(docker.from_env()) as client:
        assert client.info()["Labels"] == ["session=1"]
        assert client.containers.run("busybox", "echo hello", remove=True) == b"hello\\n"

def test_fresh_engine_is_another_one(orlop_engine, fresh_orlop_engine):
    other = fresh_orlop_engine({"labels": ["fresh=1"]})
    assert other.host != orlop_engine.host
    with closing(docker.from_env()) as client:
        assert client.info()["Labels"] == ["fresh=1"]
        assert client.images.list() == []

def test_session_engine_is_the_default_again(orlop_engine):
    with closing(docker.from_env()) as client:
        assert [image.tags for image in client.images.list()] == [["busybox:latest"]]
"""
LIMITED = """
import os, docker, pytest
from contextlib import closing

def test_engine_without_root_refuses_only_the_start(orlop_engine):
    assert not orlop_engine.runs_containers
    assert orlop_engine.load(os.environ["ARCHIVE"]) == ["busybox:latest"]
    with closing(docker.from_env()) as client:
        assert client.info()["Labels"] == ["session=1"]
        network, volume = client.networks.create("nn"), client.volumes.create("vv")
        box = client.containers.create("busybox", "true", network="nn", volumes=["vv:/v"])
        assert b"".join(box.get_archive("/bin/busybox")[0])
        with pytest.raises(docker.errors.APIError, match="cgroup"):
            box.start()
        with pytest.raises(docker.errors.APIError, match="plugin .* not found"):
            client.containers.create("busybox", log_config={"Type": "no-such-driver"})
"""


GUIDE = Path(__file__).parents[2] / "docs" / "drivers.md"
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", GUIDE.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def busybox() -> Iterator[Path]:
    """The path of an archive that every user can read. pytest's directories are closed for other users."""
    fd, name = tempfile.mkstemp(prefix="oe-busybox-", dir="/tmp")
    path = Path(name)
    with open(fd, "wb") as file:
        file.write(archive())
    path.chmod(0o644)
    try:
        yield path
    finally:
        path.unlink()


@pytest.fixture
def suite(busybox: Path) -> Iterator[Path]:
    """The directory of an author's tests, which every user can read."""
    made = Path(tempfile.mkdtemp(prefix="oe-suite-", dir="/tmp"))
    made.chmod(0o755)
    try:
        (made / "conftest.py").write_text(CONFTEST)
        yield made
    finally:
        shutil.rmtree(made)


def run_suite(suite: Path, busybox: Path, tests: str, prefix: Sequence[str] = (), python: str = sys.executable) -> str:
    (suite / "test_mine.py").write_text(tests)
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::ResourceWarning"]
    argv = [*prefix, python, "-B", "-m", "pytest", *options, "test_mine.py"]
    env = {**os.environ, "ARCHIVE": str(busybox), "HOME": str(suite)}
    done = subprocess.run(argv, cwd=suite, env=env, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def succeeds(*argv: str) -> bool:
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


def left_of(engine: Engine) -> list[str]:
    """What is left of this engine on the host."""
    instance = instance_of(str(engine.directory / "data"))
    left = [str(engine.directory)] if engine.directory.exists() else []
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(engine.directory) in line]
    left += [f"link {name}" for name in os.listdir("/sys/class/net") if instance in name]
    left += [
        f"cgroup {path}"
        for path in (*Path("/sys/fs/cgroup").glob(f"*{instance}*"), *Path("/sys/fs/cgroup").glob(f"*/*{instance}*"))
    ]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
    left += [line for line in tables.splitlines() if instance in line]
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            held = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        left += [f"process {pid}"] if any(path.startswith(str(engine.directory)) for path in held) else []
    return left


def use(engine: Engine, busybox: Path) -> None:
    """Make one of everything: a container that runs and has a published port, a network, a volume, a container that ends."""
    engine.load(busybox)
    with closing(docker.from_env()) as client:
        client.networks.create("nn")
        client.containers.run("busybox", "sleep 600", detach=True, network="nn", volumes=["vv:/v"], ports={"80/tcp": None})
        client.containers.run("busybox", "true", detach=True, restart_policy={"Name": "always"})
        client.containers.run("busybox", "true", detach=True)
    gc.collect()


@root
def test_fixtures_serve_the_tests_of_an_author(suite: Path, busybox: Path) -> None:
    assert "3 passed" in run_suite(suite, busybox, COMPLETE)


@root
def test_test_of_the_guide_runs_the_log_driver_of_the_guide(suite: Path, busybox: Path) -> None:
    (suite / "conftest.py").unlink()
    site = environment(suite / "venv")
    (site / "orlop_log_tsv.py").write_text(FILES["orlop_log_tsv.py"])
    points = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
    info = site / "orlop_log_tsv-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: orlop-log-tsv\nVersion: 1.0.0\n")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in points.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    (suite / "busybox.tar").symlink_to(busybox)
    shown = run_suite(suite, busybox, FILES["test_engine.py"], python=str(suite / "venv" / "bin" / "python"))
    assert "1 passed" in shown


def test_fixtures_without_root_serve_everything_except_starts(suite: Path, busybox: Path) -> None:
    prefix = NOBODY if os.geteuid() == 0 else ()
    if not succeeds(*prefix, sys.executable, "-c", "import orlop_kernel"):
        pytest.skip("other users cannot read this checkout")
    if not succeeds(*prefix, "unshare", "--user", "--map-root-user", "--mount", "--net", "true"):
        pytest.skip("this host allows no user namespaces")
    if prefix:
        shutil.chown(suite, 65534)
    assert "1 passed" in run_suite(suite, busybox, LIMITED, prefix)


def test_fixtures_skip_where_no_engine_can_be_started(suite: Path, busybox: Path) -> None:
    """A process whose user is not mapped may make no user namespace."""
    shown = run_suite(suite, busybox, LIMITED, ("unshare", "--user") if succeeds("unshare", "--user", "true") else ())
    assert "1 skipped" in shown
    assert "an engine needs root, or a host that allows user namespaces: " in shown


@root
def test_failing_test_leaves_nothing_on_the_host(monkeypatch: pytest.MonkeyPatch, busybox: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///before.sock")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/before")
    with pytest.raises(ZeroDivisionError), engine({"live-restore": True}) as made:
        assert "DOCKER_CERT_PATH" not in os.environ
        use(made, busybox)
        assert left_of(made)
        raise ZeroDivisionError
    assert (os.environ["DOCKER_HOST"], os.environ["DOCKER_CERT_PATH"]) == ("unix:///before.sock", "/before")
    assert "TESTCONTAINERS_RYUK_DISABLED" not in os.environ
    until(lambda: not left_of(made), "the end of all processes")


@root
@pytest.mark.parametrize("live_restore", [False, True])
def test_daemon_that_has_died_leaves_nothing_on_the_host(busybox: Path, live_restore: bool) -> None:
    with engine({"live-restore": live_restore}) as made:
        use(made, busybox)
        assert made._process is not None
        made._process.kill()
        made._process.wait()
    until(lambda: not left_of(made), "the end of all processes")


@root
def test_error_of_a_refused_configuration_contains_the_log_of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: made.append(real(**options)) or made[0])
    with pytest.raises(EngineError, match=r"cannot start the engine: orlopd ended with exit code 1:\n.*no-such-key"):
        engine({"no-such-key": 1}).__enter__()
    assert len(made) == 1
    assert not Path(made[0]).exists()


@root
def test_directory_with_a_mount_is_not_deleted() -> None:
    made = None
    try:
        with pytest.raises(EngineError, match="is kept, because these mounts are left: /tmp/oe-"), engine() as made:
            (made.directory / "m").mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "none", made.directory / "m"], check=True)
            (made.directory / "m" / "file").touch()
        assert (made.directory / "m" / "file").exists()
    finally:
        assert made is not None
        subprocess.run(["umount", made.directory / "m"], check=True)
        shutil.rmtree(made.directory)


@root
def test_load_of_a_file_that_is_no_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x" * 2000)
    with engine() as made, pytest.raises(EngineError):
        made.load(tmp_path / "x.tar")


@root
def test_testcontainers_works_with_the_engine(busybox: Path) -> None:
    core = pytest.importorskip("testcontainers.core.container", reason="testcontainers is not installed")
    with engine() as made:
        made.load(busybox)
        box = core.DockerContainer("busybox").with_exposed_ports(80)
        script = "echo found > index.html; httpd -f -p 80"
        with box.with_command(["sh", "-c", script]) as running:
            address = (running.get_container_host_ip(), running.get_exposed_port(80))
            until(lambda: fetch(*address) == b"found\n", "the answer of httpd")
            assert running.exec(["echo", "hello"]).output == b"hello\n"
    gc.collect()
    until(lambda: not left_of(made), "the end of all processes")


def fetch(host: str, port: int) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/index.html")
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()
