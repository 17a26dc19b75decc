"""Clients of listeners with labels see, change and create only objects with these labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.access_fixture import TEAM, EngineFixture, serving
from tests.integration.engine import BUSYBOX, until
from tests.registry import busybox, layer

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine_fixture() -> Iterator[EngineFixture]:
    yield from serving()


def test_clients_see_only_objects_with_their_labels(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("web", "ps", "-a", "--format", "{{.Names}}") == "web1"
    assert engine_fixture.ok("db", "ps", "-a", "--format", "{{.Names}}") == "db1"
    assert engine_fixture.ok("webread", "ps", "--format", "{{.Names}}") == "web1"
    assert engine_fixture.ok("web", "ps", "-q", "-f", f"label={TEAM}=db") == ""
    ident = engine_fixture.engine.inspect("db1")["Id"]
    for name in ("db1", ident, ident[:8]):
        assert f"container {name} is outside the labels ({TEAM}=web) of listener" in engine_fixture.denied(
            "web", "inspect", name
        )
    for argv in ("exec db1 true", "rm -f db1", "logs db1", "stop db1", "rename db1 x", "wait db1"):
        assert "is outside the labels" in engine_fixture.denied("web", *argv.split())
    events = ("events", "--since", "1h", "--until", "0s", "--format", "{{.Actor.Attributes.name}}")
    seen = until(lambda: engine_fixture.ok("web", *events).split())  # the client sends whole seconds
    assert set(seen) == {"web1"}


def test_exec_of_another_teams_container_is_refused(engine_fixture: EngineFixture) -> None:
    _, made = engine_fixture.engine.api("POST", "/containers/db1/exec", {"Cmd": ["true"]})
    for method, path in (("GET", "json"), ("POST", "start"), ("POST", "resize?h=1&w=1")):
        assert engine_fixture.api("web", method, f"/exec/{made['Id']}/{path}", {} if method == "POST" else None)[0] == 403
    assert engine_fixture.ok("web", "exec", "web1", "echo", "in") == "in"
    assert "a privileged exec is not allowed" in engine_fixture.denied("web", "exec", "--privileged", "web1", "true")


def test_created_objects_get_the_labels_of_the_listener(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("web", "run", "--rm", "busybox", "echo", "made") == "made"
    ident = engine_fixture.ok("web", "create", "--name", "web2", "-v", "web-data:/d", "-v", "/anonymous", "busybox", "true")
    made = engine_fixture.engine.inspect(ident)
    assert made["Config"]["Labels"] == {TEAM: "web"}
    names = [mount["Name"] for mount in made["Mounts"]]
    assert sorted(engine_fixture.ok("web", "volume", "ls", "-q").split()) == sorted(names)
    assert engine_fixture.ok("db", "volume", "ls", "-q") == ""
    assert "outside" in engine_fixture.denied("web", "create", "-l", f"{TEAM}=db", "busybox")
    assert "outside" in engine_fixture.denied("db", "volume", "inspect", "web-data")
    assert "outside" in engine_fixture.denied("db", "volume", "create", "web-data")
    engine_fixture.ok("web", "network", "create", "web-net")
    assert engine_fixture.ok("web", "network", "ls", "--format", "{{.Name}}") == "web-net"
    assert engine_fixture.ok("web", "network", "inspect", "-f", "{{json .Labels}}", "web-net") == json.dumps(
        {TEAM: "web"}, separators=(",", ":")
    )
    engine_fixture.ok("web", "network", "connect", "web-net", "web1")
    engine_fixture.engine.ok("network", "connect", "web-net", "db1")
    members = engine_fixture.ok("web", "network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{end}}", "web-net")
    assert members == "web1"
    engine_fixture.engine.ok("network", "disconnect", "web-net", "db1")
    engine_fixture.ok("web", "network", "disconnect", "web-net", "web1")
    engine_fixture.ok("web", "network", "rm", "web-net")
    engine_fixture.ok("web", "rm", "-v", "web2")
    engine_fixture.ok("web", "volume", "rm", "web-data")


def test_references_to_objects_without_the_labels_are_refused(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("volume", "create", "private")
    engine_fixture.engine.ok("network", "create", "private")
    for argv in (
        "--network container:db1",
        "--pid container:db1",
        "--ipc container:db1",
        "--volumes-from db1",
        "--link db1:x",
        "-v private:/d",
        "--mount type=volume,src=private,dst=/d",
        "--network private",
        "--network nowhere",
    ):
        assert "is outside the labels" in engine_fixture.denied("web", "create", *argv.split(), "busybox"), argv
    assert "Privileged is not allowed" in engine_fixture.denied("web", "create", "--privileged", "busybox")
    assert "the bind mount /:/h is not allowed" in engine_fixture.denied("web", "create", "-v", "/:/h", "busybox")
    assert "outside" in engine_fixture.denied("web", "network", "connect", "private", "web1")
    assert "outside" in engine_fixture.denied("web", "network", "connect", "bridge", "db1")
    for argv in ("system df", "tag busybox x", "rmi busybox"):
        assert "is outside the labels" in engine_fixture.denied("web", *argv.split())
    assert engine_fixture.ok("web", "create", "--pid", "container:web1", "--name", "beside", "busybox")
    assert (
        engine_fixture.engine.inspect("beside")["HostConfig"]["PidMode"]
        == f"container:{engine_fixture.engine.inspect('web1')['Id']}"
    )
    engine_fixture.ok("web", "rm", "beside")
    engine_fixture.engine.ok("network", "rm", "private")
    engine_fixture.engine.ok("volume", "rm", "private")


def test_labels_of_an_image_do_not_give_access_to_its_containers(engine_fixture: EngineFixture) -> None:
    with open(engine_fixture.engine.home / "bait.tar", "wb") as file:
        file.write(layer(busybox()).data)
    engine_fixture.engine.ok(
        "import", "-c", f"LABEL {TEAM}=web", "-c", "LABEL kept=yes", str(engine_fixture.engine.home / "bait.tar"), "bait"
    )
    engine_fixture.engine.ok("run", "-d", "--name", "bait", "-v", "/:/host:ro", "bait", "sleep", "600")
    assert engine_fixture.engine.inspect("bait")["Config"]["Labels"] == {"kept": "yes"}
    assert engine_fixture.ok("web", "ps", "--format", "{{.Names}}") == "web1"
    assert "is outside the labels" in engine_fixture.denied("web", "exec", "bait", "true")
    engine_fixture.engine.ok("rm", "-f", "bait")
    engine_fixture.engine.ok("rmi", "bait")


def test_checkpoints_give_no_access_to_directories_of_the_host(engine_fixture: EngineFixture, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    for method, path in (("DELETE", "/victim"), ("GET", ""), ("POST", "")):
        body = {"CheckpointID": "victim", "CheckpointDir": str(tmp_path)} if method == "POST" else None
        assert engine_fixture.api("web", method, f"/containers/web1/checkpoints{path}?dir={tmp_path}", body)[0] == 403
    assert engine_fixture.api("web", "POST", f"/containers/web1/start?checkpoint=victim&checkpoint-dir={tmp_path}")[0] == 403
    assert (tmp_path / "victim").is_dir()


def test_volumes_from_gives_no_access_to_an_anonymous_volume_on_a_host_directory(
    engine_fixture: EngineFixture, tmp_path: Path
) -> None:
    options = f"type=volume,dst=/m,volume-opt=type=none,volume-opt=o=bind,volume-opt=device={tmp_path}"
    engine_fixture.engine.ok("create", "--name", "holder", "-l", f"{TEAM}=web", "--mount", options, "busybox")
    for policy in ("web", "ci"):
        assert "which is a directory or device of the host, is not" in engine_fixture.denied(
            policy, "create", "--volumes-from", "holder", "busybox"
        )
    labelled = f"{options},volume-label={TEAM}=web"
    engine_fixture.engine.ok("create", "--name", "giver", "-l", f"{TEAM}=web", "--mount", labelled, "busybox")
    engine_fixture.ok("web", "run", "--rm", "--volumes-from", "giver:ro", "busybox", "ls", "/m")
    engine_fixture.engine.ok("rm", "-v", "holder", "giver")


def test_images_without_the_labels_can_be_used_only_if_shared_images_is_set(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.ok("web", "images", "-q")
    assert engine_fixture.ok("db", "images", "-q") == ""
    assert f"image {BUSYBOX.removesuffix(':latest')} is outside the labels" in engine_fixture.denied(
        "db", "run", "busybox", "true"
    )
    assert "pulling or importing images is outside" in engine_fixture.denied("db", "pull", "nowhere.invalid/x")
    assert "outside" in engine_fixture.denied("web", "load", "-i", "/dev/null")


def test_prune_removes_only_objects_with_the_labels(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("create", "--name", "other", "busybox", "true")
    engine_fixture.ok("web", "create", "--name", "mine", "busybox", "true")
    engine_fixture.ok("web", "container", "prune", "-f")
    assert sorted(engine_fixture.engine.ok("ps", "-a", "--format", "{{.Names}}").split()) == ["db1", "other", "web1"]
    engine_fixture.ok("web", "system", "prune", "-f")
    engine_fixture.engine.ok("rm", "other")


def test_link_of_a_container_can_be_removed_only_by_clients_with_its_labels(engine_fixture: EngineFixture) -> None:
    engine_fixture.ok("web", "create", "--name", "linked", "--link", "web1:first", "busybox")
    ident = engine_fixture.engine.inspect("web1")["Id"]
    assert engine_fixture.engine.inspect("linked")["HostConfig"]["Links"] == ["/web1:/linked/first"]
    assert "container linked is outside the labels" in engine_fixture.denied("db", "rm", "--link", "linked/first")
    assert engine_fixture.ok("web", "rm", "--link", "linked/first") == "linked/first"
    assert (engine_fixture.engine.inspect("linked")["HostConfig"]["Links"], engine_fixture.engine.inspect("web1")["Id"]) == (
        None,
        ident,
    )
    engine_fixture.ok("web", "rm", "linked")
