"""List filters, and names by links."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio

from orlop_engine.containers import details, links, listing
from orlop_engine.containers.container import Container
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.containers.paths import ContainerPaths
from orlop_engine.containers.record import ContainerRecord, MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.networks.status import ContainerNetworks, EndpointStatus
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig
from orlop_sdk import Conflict, DriverError, InvalidParameter, NotFound, PublishedPort

RUNNING, NEW = State(Phase.RUNNING, started_ns=1), State()
STOPPED = State(Phase.EXITED, started_ns=1, finished_ns=2, exit_code=3)


def made(number, name, state, mounts=(), **host):
    record = ContainerRecord(
        id=f"{number:x}" * 64,
        name=name,
        created_ns=number,
        args=["true"],
        config=ContainerConfig(
            image="busybox",
            labels={"a": "b"} if number % 2 else {},
            exposed_ports={"80/tcp": {}} if number == 1 else {"80/tcp": {}, "53/udp": {}},
        ),
        host_config=HostConfig(**{"network_mode": "bridge", **host}),
        image_id="sha256:1",
        storage_driver="overlay2",
        mounts=mounts,
        state=state,
    )
    return Container(record)


class NetworksFixture:
    @staticmethod
    def known(name):
        return SimpleNamespace(name=name)

    @staticmethod
    def of_container(sandbox, *, endpoints, exposed, running):
        port = PublishedPort(container_port=80, protocol="tcp", host_ip="", host_port=8080)
        published = {"80/tcp": [port], "53/udp": []}
        networks = {"bridge": EndpointStatus("feedbeef", EndpointSettings())}
        return ContainerNetworks(sandbox, networks, {port: published[port] for port in exposed})


class PortsFixture:
    """Real containers that do not run."""

    def __init__(self, *containers):
        self.networks, self.saved, self.rows = NetworksFixture(), [], self
        self.images = SimpleNamespace(all_platforms=lambda text: [self._resolve(text)], changes=0)
        self.volumes = SimpleNamespace(mountpoint=lambda name: f"/volumes/{name}")
        self.paths = ContainerPaths("/data", "/exec")
        self.index = ContainerIndex(lambda index, name: links.resolve(index, self.networks, name))
        for container in containers:
            self.index.add(container)

    @staticmethod
    def _resolve(text):
        if text != "busybox":
            raise NotFound(text)
        return SimpleNamespace(id="sha256:1")

    @asynccontextmanager
    async def change(self, container):
        with container.publish() as draft:
            yield draft
        self.saved.append(container.id)


@pytest.fixture
def ports():
    mounts = (
        MountRecord(type="volume", destination="/v", name="vol"),
        MountRecord(type="bind", destination="/b", source="/src"),
        MountRecord(type="tmpfs", destination="/t", mode=""),
    )
    return PortsFixture(
        made(1, "web", RUNNING),
        made(2, "db", STOPPED),
        made(3, "new", NEW, mounts, tmpfs={"/t/": ""}),
        made(4, "app", RUNNING, links=["web:front", "/db"]),
    )


def names(ports, *, everything=False, limit=0, **filters):
    wanted = {key.replace("_", "-"): value for key, value in filters.items()}
    return [item.name for item in listing.select(ports, everything=everything, limit=limit, filters=wanted)]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["app", "web"]),
        ({"status": ["exited", "created"]}, ["new", "db"]),
        ({"status": []}, ["app", "web"]),
        ({"exited": ["3"]}, []),  # without `all`, stopped containers are not listed
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
def test_filters_select_containers(ports, filters, found):
    assert names(ports, **filters) == found


def test_parameters_of_the_container_list_select_containers(ports):
    assert names(ports, everything=True) == ["app", "new", "db", "web"]
    assert names(ports, limit=3) == ["app", "new", "db"]
    assert names(ports, limit=-1) == ["app", "web"]
    assert names(ports, everything=True, limit=1, status=["exited"]) == ["db"]
    assert names(ports, everything=True, before=["db"]) == ["web"]
    assert names(ports, everything=True, since=["2222"]) == ["app", "new"]
    assert names(ports, everything=True, exited=["3"]) == ["db"]


@pytest.mark.parametrize(("text", "found"), [("vol", True), ("/v", True), ("/src", True), ("/b", True), ("/t", False)])
def test_volume_filter_matches_names_and_destinations(ports, text, found):
    assert names(ports, everything=True, volume=[text]) == (["new"] if found else [])


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
def test_invalid_filters_are_refused(ports, filters, text):
    with pytest.raises(InvalidParameter, match=text):
        names(ports, **filters)
    with pytest.raises(NotFound):
        names(ports, before=["nobody"])


# --- links


def test_container_list_shows_link_names(ports):
    index, networks = ports.index, ports.networks
    web, db, app = index.get("web"), index.get("db"), index.get("app")
    app.record.endpoints = {"bridge": EndpointSettings()}
    assert links.names(index, networks) == {web.id: ["app/front"], db.id: ["app/db"]}
    assert links.shown(index, networks, app.record) == ["/db:/app/db", "/web:/app/front"]
    assert index.get("/app/front") is web
    assert links.resolve(index, networks, "app/none") is None and links.resolve(index, networks, "none/front") is None
    app.record.endpoints = {"mine": EndpointSettings()}  # on a user-defined network, a link is only a DNS alias
    assert links.names(index, networks) == {} and links.shown(index, networks, app.record) is None


def test_link_name_may_begin_with_the_id_of_the_parent_container(ports):
    """The name PARENT/ALIAS of a link may begin with the ID of the parent."""
    app = ports.index.get("app")
    app.record.endpoints = {"bridge": EndpointSettings()}
    assert ports.index.get(f"{app.id}/front") is ports.index.get("web")
    trio.run(links.remove, ports, f"{app.id}/front")
    assert app.record.host_config.links == ["/db"]


def test_removal_of_a_link_keeps_the_linked_containers(ports):
    trio.run(links.remove, ports, "/app/front")
    assert ports.index.get("app").record.host_config.links == ["/db"] and ports.saved == [ports.index.get("app").id]
    for text, kind in (("app/front", NotFound), ("none/front", NotFound), ("app", Conflict), ("/app", Conflict)):
        with pytest.raises(kind):
            trio.run(links.remove, ports, text)


# --- inspect of one container


def test_paths_of_network_files_are_empty_before_the_first_start(ports):
    record = ports.index.get("web").record
    assert details.file_paths(ports, record) == ("", "", "")
    record.started_before = True
    own = f"/data/containers/{record.id}"
    assert details.file_paths(ports, record) == (f"{own}/resolv.conf", f"{own}/hostname", f"{own}/hosts")
    record.host_config.network_mode = f"container:{'2' * 64}"
    assert details.file_paths(ports, record).hosts == f"/data/containers/{'2' * 64}/hosts"


def test_mounts_of_volumes_are_shown_with_their_mount_point_and_driver(ports):
    volume, bind = details.mounts(ports.volumes, ports.index.get("new").record)
    assert (volume.name, volume.source, volume.driver) == ("vol", "/volumes/vol", "local")
    assert (bind.type, bind.source) == ("bind", "/src")


def test_tmpfs_of_host_config_is_not_shown_as_a_mount():
    mounts = (MountRecord(type="tmpfs", destination="/t"), MountRecord(type="tmpfs", destination="/u", mode="size=1m"))
    record = made(1, "web", RUNNING, mounts, tmpfs={"//u": "size=1m"}).record
    assert [mount.destination for mount in details.shown_mounts(record)] == ["/t"]


@pytest.mark.parametrize(("means", "shown"), [("sha256:1", "x:1"), ("sha256:2", "sha256:1"), (None, "sha256:1")])
def test_image_name_of_the_create_request_is_shown_while_this_name_refers_to_the_image(means, shown):
    def all_platforms(reference):
        if means is None:
            raise NotFound(f"No such image: {reference}")
        return [SimpleNamespace(id="sha256:0"), SimpleNamespace(id=means)]

    record = SimpleNamespace(config=ContainerConfig(image="x:1"), image_id="sha256:1")
    assert details.image_name(SimpleNamespace(all_platforms=all_platforms), record) == shown


def test_size_of_a_container_that_cannot_be_measured_is_omitted(ports):
    class Storage:
        async def usage(self, key):
            await trio.lowlevel.checkpoint()
            if key.startswith("1"):
                raise DriverError("it is gone")
            return SimpleNamespace(size=3)

    ports.storage, ports.images.get = Storage(), lambda ident: SimpleNamespace(size=5)
    web, db = ports.index.get("web"), ports.index.get("db")
    assert trio.run(details.measure, ports, [web, db], 1) == {db.id: (3, 8)}
