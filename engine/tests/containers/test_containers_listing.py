"""List filters, and names by links."""

import json
from types import SimpleNamespace

import pytest
import trio

from orlop_engine.containers import links, listing, view
from orlop_engine.containers.container import Container
from orlop_engine.containers.record import ContainerRecord, MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig
from orlop_sdk import Conflict, InvalidParameter, NotFound

RUNNING, NEW = State(Phase.RUNNING, started_ns=1), State()
STOPPED = State(Phase.EXITED, started_ns=1, finished_ns=2, exit_code=3)


def made(number, name, state, mounts=(), **host):
    record = ContainerRecord(
        id=f"{number:x}" * 64,
        name=name,
        created_ns=number,
        args=["true"],
        config=ContainerConfig(labels={"a": "b"} if number % 2 else {}),
        host_config=HostConfig(**{"network_mode": "bridge", **host}),
        image_id="sha256:1",
        storage_driver="overlay2",
        mounts=mounts,
        state=state,
    )
    return Container(record)


class ImagesFixture:
    def __init__(self, *containers):
        self.index = {item.id: item for item in containers}
        self.names = {item.name: item.id for item in containers}
        self.saved = []
        networks = SimpleNamespace(known=lambda name: SimpleNamespace(name=name))
        self.engine = SimpleNamespace(images=SimpleNamespace(resolve=self._resolve), networks=networks)

    def _resolve(self, text):
        if text != "busybox":
            raise NotFound(text)
        return SimpleNamespace(id="sha256:1")

    def get(self, text):
        found = [item for item in self.index.values() if item.id.startswith(text) or item.name == text.removeprefix("/")]
        if not found:
            raise NotFound(f"No such container: {text}")
        return found[0]

    async def save(self, container):
        self.saved.append(container.id)

    def network_settings(self, item):
        return {"Networks": {"bridge": {"NetworkID": "feedbeef", "Aliases": None}}}

    def ports(self, item, settings):
        return [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"PrivatePort": 53, "Type": "udp"}][
            : item.record.created_ns
        ]


@pytest.fixture
def containers():
    mounts = (
        MountRecord(type="volume", destination="/v", name="vol"),
        MountRecord(type="bind", destination="/b", source="/src"),
        MountRecord(type="tmpfs", destination="/t", mode=""),
    )
    return ImagesFixture(
        made(1, "web", RUNNING),
        made(2, "db", STOPPED),
        made(3, "new", NEW, mounts, tmpfs={"/t/": ""}),
        made(4, "app", RUNNING, links=["web:front", "/db"]),
    )


def names(containers, *, everything=False, limit=0, **filters):
    wanted = {key.replace("_", "-"): value for key, value in filters.items()}
    return [item.name for item in listing.select(containers, everything=everything, limit=limit, filters=wanted)]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["app", "web"]),
        ({"status": ["exited", "created"]}, ["new", "db"]),
        ({"status": []}, ["app", "web"]),
        ({"exited": ["3"]}, []),  # does not include stopped containers
        ({"name": ["^w"]}, ["web"]),
        ({"name": ["/web$"]}, ["web"]),
        ({"name": ["["]}, []),
        ({"id": ["44"]}, ["app"]),
        ({"id": ["["]}, []),
        ({"label": ["a=b"]}, ["web"]),
        ({"network": ["feed"]}, ["app", "web"]),
        ({"publish": ["8000-9000"]}, ["app", "web"]),
        ({"expose": ["53/udp"]}, ["app"]),
        ({"publish": ["1"], "expose": ["80"]}, ["app", "web"]),
        ({"ancestor": ["busybox", "none"]}, ["app", "web"]),
        ({"ancestor": ["none"]}, []),
        ({"is_task": ["true"]}, []),
        ({"is_task": ["False"]}, ["app", "web"]),
        ({"health": ["none"]}, ["app", "web"]),
        ({"isolation": ["whatever"]}, ["app", "web"]),
    ],
)
def test_filters(containers, filters, found):
    assert names(containers, **filters) == found


def test_all_and_limits(containers):
    assert names(containers, everything=True) == ["app", "new", "db", "web"]
    assert names(containers, limit=3) == ["app", "new", "db"]
    assert names(containers, limit=-1) == ["app", "web"]
    assert names(containers, everything=True, limit=1, status=["exited"]) == ["db"]
    assert names(containers, everything=True, before=["db"]) == ["web"]
    assert names(containers, everything=True, since=["2222"]) == ["app", "new"]
    assert names(containers, everything=True, exited=["3"]) == ["db"]


@pytest.mark.parametrize(("text", "found"), [("vol", True), ("/v", True), ("/src", True), ("/b", True), ("/t", False)])
def test_volumes(containers, text, found):
    assert names(containers, everything=True, volume=[text]) == (["new"] if found else [])


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"bogus": ["1"]}, "invalid filter 'bogus'"),
        ({"status": ["up"]}, "invalid filter 'status=up'"),
        ({"exited": ["x"]}, "invalid filter 'exited=x'"),
        ({"health": ["ill"]}, "unrecognized filter value for health: ill"),
        ({"is_task": ["maybe"]}, r"invalid filter 'is-task=\[maybe\]'"),
        ({"is_task": ["true", "false"]}, r"invalid filter 'is-task=\[true false\]'"),
        ({"publish": ["x"]}, "error while looking up for publish x"),
        ({"publish": ["9-1"]}, "error while looking up for publish 9-1"),
        ({"expose": ["70000"]}, "error while looking up for expose 70000"),
    ],
)
def test_bad_filters(containers, filters, text):
    with pytest.raises(InvalidParameter, match=text):
        names(containers, **filters)
    with pytest.raises(NotFound):
        names(containers, before=["nobody"])


# --- links


def test_names_by_links(containers):
    web, db, app = containers.get("web"), containers.get("db"), containers.get("app")
    app.record.endpoints = {"bridge": EndpointSettings()}
    assert links.names(containers) == {web.id: ["app/front"], db.id: ["app/db"]}
    assert links.shown(containers, app.record) == ["/db:/app/db", "/web:/app/front"]
    assert links.resolve(containers, "/app/front") is web
    assert links.resolve(containers, "app/none") is None and links.resolve(containers, "none/front") is None
    app.record.endpoints = {"mine": EndpointSettings()}  # on a user-defined network, where a link is only a DNS alias
    assert links.names(containers) == {} and links.shown(containers, app.record) is None


def test_a_link_is_found_and_removed_by_its_parents_id_too(containers):
    app = containers.get("app")
    app.record.endpoints = {"bridge": EndpointSettings()}
    assert links.resolve(containers, f"{app.id}/front") is containers.get("web")
    trio.run(links.remove, containers, f"{app.id}/front")
    assert app.record.host_config.links == ["/db"]


def test_a_link_is_removed_and_its_containers_stay(containers):
    trio.run(links.remove, containers, "/app/front")
    assert containers.get("app").record.host_config.links == ["/db"] and containers.saved == [containers.get("app").id]
    for text, kind in (("app/front", NotFound), ("none/front", NotFound), ("app", Conflict), ("/app", Conflict)):
        with pytest.raises(kind):
            trio.run(links.remove, containers, text)


# --- one item


def test_aliases_of_older_versions():
    record = made(1, "web", RUNNING).record
    record.config.hostname = "host"
    networks = {"mine": {"Aliases": ["al", "host"]}, "bridge": {"Aliases": None}}
    view._add_old_aliases(record, networks)
    assert networks == {"mine": {"Aliases": ["al", "host", "1" * 12]}, "bridge": {"Aliases": None}}


def test_paths_come_with_the_first_start(containers):
    containers.directory = lambda ident: f"/c/{ident[:1]}"
    record = containers.get("web").record
    assert view._file_paths(containers, record) == ("", "", "")
    record.started_before = True
    assert view._file_paths(containers, record) == ("/c/1/resolv.conf", "/c/1/hostname", "/c/1/hosts")
    record.host_config.network_mode = f"container:{'2' * 64}"
    assert view._file_paths(containers, record)[2] == "/c/2/hosts"


def test_summary(containers):
    containers.image_name = lambda record: "busybox"
    containers.volume_mountpoints = lambda record: {}
    item = json.loads(view.summary(containers, containers.get("web"), ["app/front"], (0, 5)))
    assert item["Names"] == ["/web", "/app/front"] and "SizeRw" not in item and item["SizeRootFs"] == 5
    assert item["NetworkSettings"]["Networks"]["bridge"]["Aliases"] is None
    item = json.loads(view.summary(containers, containers.get("web"), (), None))
    assert item["Names"] == ["/web"] and "SizeRootFs" not in item and item["Status"].startswith("Up ")
