"""30 images and 50 containers of a real dockerd are adopted, used and given back, and no field of any inspect is lost."""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration import docker_root_many as many
from tests.integration.adopting import Side, adopting, running, system
from tests.integration.docker_root import Dockerd, snapshot
from tests.integration.engine import Engine, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to take a root from"),
]


@pytest.fixture(params=[False, True], ids=["overlay2", "containerd"])
def side(request: pytest.FixtureRequest) -> Iterator[Side]:
    home = Path(tempfile.mkdtemp(prefix="otm-", dir="/tmp"))

    def fill(docker: Dockerd) -> None:
        many.fill(docker)
        if request.param:
            many.add_platforms(docker)

    made = None
    try:
        made = Side(home, fill, containerd=request.param)
        yield made
    finally:
        if made is not None:
            made.dockerd.close()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def adopter() -> Iterator[Engine]:
    with adopting() as engine:
        yield engine


def processor_time() -> float:
    """Seconds of processor time that ended child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_adoption_keeps_every_field_of_many_objects(side: Side, adopter: Engine) -> None:
    docker, root = side.dockerd, side.dockerd.root
    untouched, began = snapshot(root), processor_time()
    report = json.loads(system(adopter, "adopt", str(root), "--format", "json").out)
    used = processor_time() - began
    assert used < 1.0, f"{used:.2f} s of processor time, and it waits for little else: half a second on an idle machine"
    assert snapshot(root) == untouched, "nothing in the Docker root was changed"
    assert [each["kind"] for each in report["objects"] if not each["adopted"]] == ["build cache"], report
    more = int(side.containerd)
    assert report["counts"]["container"]["adopted"] == many.CONTAINERS + more
    assert report["counts"]["image"]["adopted"] == many.IMAGES + 2 * more

    adopter.start()
    assert running(adopter) == many.STARTED, "those whose policy says so, and no others"
    until(lambda: all(adopter.state(name) == "running" for name in many.STARTED), "they are started")
    assert side.compare(adopter, adopter.data_root) == []
    assert json.loads(adopter.orlop("system", "check", "--format", "json").out)["findings"] == []
    _use(adopter)
    if side.containerd:
        _use_platforms(adopter)
    adopter.ok("stop", "-t", "0", *running(adopter))
    adopter.stop()

    system(adopter, "give-back")
    docker.start()
    assert side.compare(docker, root, engines=False) == []
    docker.ok("start", "c4")
    assert docker.ok("exec", "c0", "cat", "/data/orlop") == "volume"
    assert docker.ok("exec", "c4", "cat", "/written", "/orlop") == "sh\nroot"
    assert docker.ok("logs", "c4").split("\n").count("out") == 3
    docker.stop()


def _use(engine: Engine) -> None:
    engine.ok("exec", "c0", "sh", "-c", "echo volume > /data/orlop")
    engine.ok("start", "c4")
    engine.ok("exec", "c4", "sh", "-c", "echo root > /orlop")
    assert engine.ok("exec", "c4", "hostname") == engine.inspect("c4")["Config"]["Hostname"]


def _use_platforms(engine: Engine) -> None:
    """Both platforms are stored under one name. As in dockerd, only the manifest of the third platform is stored."""
    found = json.loads(engine.ok("image", "inspect", many.MULTI))[0]
    assert found["Architecture"] != many.OTHER_PLATFORM
    status, listed = engine.api("GET", f"/v1.51/images/{many.MULTI}/json?manifests=1")
    assert status == 200 and sorted(each["Available"] for each in listed["Manifests"]) == [False, True, True]
    foreign = engine.inspect("foreign")
    (other,) = [each for each in listed["Manifests"] if each["ImageData"]["Platform"]["architecture"] == many.OTHER_PLATFORM]
    assert other["ImageData"]["Containers"] == [foreign["Id"]]
