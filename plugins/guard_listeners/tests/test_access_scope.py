"""Label scopes of listeners: which objects are in a scope, and how requests are changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio

from orlop_engine.containers.record import MountRecord
from orlop_engine.types.containers import CreateRequest, HostConfig
from orlop_engine.types.networks import ConnectRequest
from orlop_engine.types.volumes import VolumeCreateRequest
from orlop_engine.volumes.record import VolumeRecord
from orlop_guard_listeners import inherited_access
from orlop_guard_listeners.label_scope import LabelScope
from orlop_guard_listeners.listener_policy import Denied, ListenerPolicy
from orlop_guard_listeners.roles import Scope
from orlop_kernel.config import Listener
from orlop_kernel.http.messages import Peer, Request
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.dialect import PLAIN
from orlop_sdk import NotFound

TEAM = "com.example.team"


class FakeCollection:
    """A fake registry of objects by name."""

    def __init__(self, **things: Any) -> None:
        self.things = things

    def get(self, name: str) -> Any:
        if name not in self.things:
            raise NotFound(f"no {name}")
        return self.things[name]

    resolve = get

    def all_platforms(self, name: str) -> list[Any]:
        found = self.get(name)
        return found if isinstance(found, list) else [found]

    def known(self, name: str) -> Any:
        return self.things.get(name)

    def pushed_names(self, name: str, tag: str) -> list[str]:
        """The names that a push of an image sends; the image `both` has two tags."""
        return ["ours", "plain"] if name == "both" and not tag else [name]


def container(ident: str, mounts: str = "", modes: Any = None, **labels: str) -> Any:
    """`mounts` are "TYPE NAME, ..."; a name with "?" is an anonymous volume."""
    record = SimpleNamespace(
        config=SimpleNamespace(labels=labels),
        host_config=HostConfig(**(modes or {})),
        mounts=[
            MountRecord(
                type=kind, destination="/d", name=name.removesuffix("?"), source="/etc", anonymous=name.endswith("?")
            )
            for kind, name in map(str.split, filter(None, mounts.split(",")))
        ],
    )
    return SimpleNamespace(id=ident, record=record)


def labelled(**more: Any) -> Any:
    return SimpleNamespace(**{"labels": {}, "predefined": False, **more})


MINE = container("1" * 64, **{TEAM: "web"})
FULL = container("3" * 64, "volume theirs", **{TEAM: "web"})
OWN = container("4" * 64, "volume plain?, volume gone?", **{TEAM: "web"})
HOST = container("5" * 64, "volume plain?, volume etc?", **{TEAM: "web"})
OF_HOST = {"type": "none", "o": "bind", "device": "/etc"}
ENGINE = SimpleNamespace(
    containers=FakeCollection(
        **{each.id: each for each in (MINE, FULL, OWN, HOST)},
        mine=MINE,
        full=FULL,
        own=OWN,
        host=HOST,
        theirs=container("2" * 64, **{TEAM: "db"}),
    ),
    networks=FakeCollection(
        **{"9": labelled(id="9f", name="secret")},
        bridge=labelled(id="b", name="bridge", predefined=True),
        host=labelled(id="h", name="host", predefined=True),
        mine=labelled(id="n", name="mine", labels={TEAM: "web"}),
    ),
    volumes=FakeCollection(
        mine=VolumeRecord("mine", "local", 0, labels={TEAM: "web"}),
        theirs=VolumeRecord("theirs", "local", 0, labels={TEAM: "db"}),
        plain=VolumeRecord("plain", "local", 0),
        etc=VolumeRecord("etc", "local", 0, options=OF_HOST),
    ),
    images=FakeCollection(
        plain=SimpleNamespace(config=SimpleNamespace(labels=None)),
        ours=SimpleNamespace(config=SimpleNamespace(labels={TEAM: "web"})),
        mixed=[  # one name of two platforms
            SimpleNamespace(config=SimpleNamespace(labels={TEAM: "web"})),
            SimpleNamespace(config=SimpleNamespace(labels=None)),
        ],
    ),
    execs=FakeCollection(
        mine=SimpleNamespace(container=MINE), theirs=SimpleNamespace(container=SimpleNamespace(id="theirs"))
    ),
)


def judge(*labels: str, **more: Any) -> LabelScope:
    entry = Listener(host="unix:///x", role="full", labels=labels or (f"{TEAM}=web",), **more)
    return LabelScope(cast("Any", ENGINE), ListenerPolicy.of(entry))


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        return self.data


def call(pattern: str, body: Any = None, query: dict[str, list[str]] | None = None, **params: str) -> Call:
    data = msgspec.json.encode(body) if body is not None else b""
    headers = {"content-type": "application/json"} if data else {}
    asked = Request("POST", pattern, pattern, query or {}, headers, cast("Any", Body(data)), Peer("unix"))
    dialect = PLAIN._replace(decode=lambda data, kind: msgspec.json.decode(data, type=kind))
    return Call(asked, (1, 51), params, pattern, dialect)


def judged(made: LabelScope, asked: Call, scope: Scope) -> Call:
    async def main() -> None:
        await made(asked, scope)

    trio.run(main)
    return asked


def created(made: LabelScope, **body: Any) -> CreateRequest:
    async def main() -> CreateRequest:
        asked = call("/containers/create", body)
        await made(asked, Scope.CREATE)
        return await asked.json(CreateRequest)

    return trio.run(main)


def test_name_in_the_path_of_a_request_is_replaced_by_the_checked_id() -> None:
    assert judged(judge(), call("/containers/{id}/start", id="mine"), Scope.CONTAINER).params == {"id": "1" * 64}
    assert judged(judge(), call("/networks/{id}", id="mine"), Scope.NETWORK).params == {"id": "n"}
    with pytest.raises(
        Denied, match=r"container theirs is outside the labels \(com.example.team=web\) of listener unix:///x"
    ):
        judged(judge(), call("/containers/{id}/start", id="theirs"), Scope.CONTAINER)
    with pytest.raises(NotFound):
        judged(judge(), call("/containers/{id}/start", id="nobody"), Scope.CONTAINER)
    with pytest.raises(Denied):
        judged(judge(), call("/networks/{id}", id="bridge"), Scope.NETWORK)


OTHERS = FakeCollection(
    plain=container("p", mounts="volume v, tmpfs t"),
    bound=container("b", mounts="volume v, bind b"),
    pictured=container("i", mounts="image i"),
    hosts=container("h", modes={"network_mode": "host", "pid_mode": "host"}),
    joined=container("j", modes={"network_mode": "container:hosts", "ipc_mode": "container:plain"}),
    loop=container("l", modes={"pid_mode": "container:loop"}),
)


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ({"volumes_from": ["plain:ro"], "network_mode": "container:plain", "ipc_mode": "container:joined"}, []),
        ({"volumes_from": ["plain", "bound:ro"]}, ["VolumesFrom bound, which has the bind mount of /etc,"]),
        ({"volumes_from": ["pictured"]}, ["VolumesFrom pictured, which has the image mount of /etc,"]),
        ({"volumes_from": ["later"]}, ["VolumesFrom later, which does not exist,"]),
        ({"network_mode": "container:hosts"}, ["NetworkMode container:hosts, which uses the host's namespace,"]),
        ({"network_mode": "container:joined"}, ["NetworkMode container:joined, which uses the host's namespace,"]),
        ({"pid_mode": "container:hosts"}, ["PidMode container:hosts, which uses the host's namespace,"]),
        ({"pid_mode": "container:loop"}, ["PidMode container:loop, which is part of a cycle,"]),
        ({"ipc_mode": "container:later"}, ["IpcMode container:later, which does not exist,"]),
    ],
)
def test_host_access_cannot_be_inherited_from_other_containers(host: dict[str, Any], what: list[str]) -> None:
    assert [*inherited_access.of_others(cast("Any", OTHERS), HostConfig(**host))] == what


def test_names_in_a_create_request_are_replaced_by_checked_ids() -> None:
    """While an authorization plugin decides, another container may get the name."""
    host = HostConfig(volumes_from=["plain:ro", "hosts"], network_mode="container:plain", pid_mode="container:joined")
    assert not [*inherited_access.of_others(cast("Any", OTHERS), host)]
    assert (host.volumes_from, host.network_mode, host.pid_mode) == (["p:ro", "h"], "container:p", "container:j")


def test_listener_with_labels_refuses_routes_of_scope_closed_and_allows_routes_of_scope_open() -> None:
    """A listener with labels refuses the routes with the scope CLOSED, and allows the routes with the scope OPEN."""
    with pytest.raises(Denied, match="POST /commit is outside the labels"):
        judged(judge(), call("/commit"), Scope.CLOSED)
    judged(judge(), call("/version"), Scope.OPEN)


def test_guard_has_a_check_for_every_scope() -> None:
    """The guard has a check for each value of `Scope`."""
    known = {Scope.OPEN, Scope.ABSENT, Scope.CLOSED, *judge()._by_route}
    assert known == set(Scope)


def test_lists_contain_only_objects_with_the_labels() -> None:
    assert judged(judge(), call("/containers/json"), Scope.FILTER).only == (f"{TEAM}=web",)
    before = {"filters": ['{"before":["theirs"]}']}
    with pytest.raises(Denied):
        judged(judge(), call("/containers/json", query=before), Scope.FILTER)
    assert judged(judge(shared_images=True), call("/images/json"), Scope.IMAGES).only == ()


def test_created_container_gets_the_labels_and_checked_ids() -> None:
    made = created(
        judge(shared_images=True),
        Image="plain",
        Labels={"other": "x"},
        HostConfig={"NetworkMode": "container:mine", "PidMode": "container:mine", "VolumesFrom": ["mine:ro"]},
    )
    assert made.labels == {TEAM: "web", "other": "x"}
    assert made.host_config
    assert (made.host_config.network_mode, made.host_config.pid_mode) == (f"container:{'1' * 64}",) * 2
    assert made.host_config.volumes_from == [f"{'1' * 64}:ro"]
    assert created(judge(shared_images=True), Image="plain").host_config is not None


@pytest.mark.parametrize(
    "body",
    [
        {"Labels": {TEAM: "db"}},
        {"HostConfig": {"NetworkMode": "host"}},
        {"HostConfig": {"NetworkMode": "nowhere"}},
        {"HostConfig": {"NetworkMode": "container:theirs"}},
        {"HostConfig": {"VolumesFrom": ["theirs"]}},
        {"HostConfig": {"Binds": ["theirs:/d"]}},
        {"HostConfig": {"Mounts": [{"Type": "volume", "Source": "theirs", "Target": "/d"}]}},
        {"HostConfig": {"Links": ["theirs:x"]}},
        {"HostConfig": {"VolumesFrom": ["full"]}},
        {"HostConfig": {"VolumesFrom": ["own", "host"]}},
        {"HostConfig": {"NetworkMode": "host"}, "NetworkingConfig": {"EndpointsConfig": {"mine": {}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"host": {}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"mine": {"NetworkID": "9"}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"mine": {"Links": ["theirs:x"]}}}},
    ],
)
def test_references_outside_the_scope_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(Denied):
        created(judge(shared_images=True), Image="plain", **body)


@pytest.mark.parametrize(
    ("body", "mode", "networks"),
    [
        ({}, "", {"bridge": "b"}),
        ({"HostConfig": {"NetworkMode": "mine"}}, "mine", {"mine": "n"}),
        ({"NetworkingConfig": {"EndpointsConfig": {"mine": None}}}, "", {"mine": "n"}),
        (
            {"NetworkingConfig": {"EndpointsConfig": {"x": {"NetworkID": "mine"}, "bridge": {}}}},
            "",
            {"x": "n", "bridge": "b"},
        ),
    ],
)
def test_network_names_are_replaced_by_ids(body: dict[str, Any], mode: str, networks: dict[str, str]) -> None:
    made = created(judge(shared_images=True), Image="plain", **body)
    assert made.host_config and made.host_config.network_mode == mode
    assert made.networking_config and made.networking_config.endpoints_config
    assert {name: each and each.network_id for name, each in made.networking_config.endpoints_config.items()} == networks


def test_link_targets_are_replaced_by_ids() -> None:
    given = ["mine", "/mine:/other/alias"]
    pinned = [f"{'1' * 64}:mine", f"{'1' * 64}:/other/alias"]
    networks = {"EndpointsConfig": {"mine": {"Links": [*given]}}}
    made = created(judge(shared_images=True), Image="plain", HostConfig={"Links": given}, NetworkingConfig=networks)
    assert made.host_config and made.host_config.links == pinned
    assert made.networking_config and made.networking_config.endpoints_config
    assert [each and each.links for each in made.networking_config.endpoints_config.values()] == [pinned]
    connect = call("/networks/{id}/connect", {"Container": "mine", "EndpointConfig": {"Links": given}}, id="mine")
    judged(judge(), connect, Scope.CONNECT)
    assert isinstance(connect.body, ConnectRequest) and connect.body.endpoint_config
    assert connect.body.endpoint_config.links == pinned


@pytest.mark.parametrize("link", ["theirs:x", "nobody:x"])
def test_links_in_a_network_connect_request_are_checked(link: str) -> None:
    body = {"Container": "mine", "EndpointConfig": {"Links": [link]}}
    with pytest.raises(Denied, match=f"container {link[:6]}"):
        judged(judge(), call("/networks/{id}/connect", body, id="mine"), Scope.CONNECT)
    with pytest.raises(Denied, match=f"container {link[:6]}"):
        created(judge(shared_images=True), Image="plain", HostConfig={"Links": [link]})


def test_client_can_remove_a_link_only_if_the_parent_container_is_in_the_scope() -> None:
    """A client may remove a link (`DELETE /containers/PARENT/ALIAS?link=1`) only if it may access the parent."""
    asked = {"link": ["1"]}
    for text in ("mine/alias", "/mine/alias"):
        made = judged(judge(), call("/containers/{id}", query=asked, id=text), Scope.CONTAINER)
        assert made.params == {"id": f"{'1' * 64}/alias"}
    assert judged(judge(), call("/containers/{id}", query=asked, id="mine"), Scope.CONTAINER).params == {"id": "1" * 64}
    with pytest.raises(Denied, match="container theirs is outside"):
        judged(judge(), call("/containers/{id}", query=asked, id="theirs/alias"), Scope.CONTAINER)


def test_volume_created_outside_the_scope_after_the_check_is_refused() -> None:
    theirs, mine = (VolumeRecord("v", "local", 0, labels={TEAM: team}) for team in ("db", "web"))
    judge().check_volume(mine, False)
    judge().check_volume(theirs, True)  # of a container that was checked
    with pytest.raises(Denied, match="volume v is outside the labels"):
        judge().check_volume(theirs, False)


def test_anonymous_volume_on_a_host_path_is_refused() -> None:
    """A volume on a host directory is allowed only if it has the label. This also applies to anonymous volumes."""
    assert created(judge(shared_images=True), Image="plain", HostConfig={"VolumesFrom": ["own"]})
    with pytest.raises(Denied, match="the volume etc, which is a directory or device of the host, is not allowed"):
        created(judge(shared_images=True), Image="plain", HostConfig={"VolumesFrom": ["host"]})
    for anonymous in (True, False):
        judge().check_volume(VolumeRecord("v", "local", 0, options=OF_HOST, labels={TEAM: "web"}), anonymous)
        with pytest.raises(Denied, match="directory or device of the host"):
            judge().check_volume(VolumeRecord("v", "local", 0, options=OF_HOST), anonymous)


def test_object_is_in_the_scope_only_with_all_labels_of_the_listener() -> None:
    """An object with one of two labels is outside the scope."""
    made = judge(f"{TEAM}=web", "com.example.env")
    assert made.matches({TEAM: "web", "com.example.env": "test", "more": ""})
    for labels in ({}, None, {TEAM: "web"}, {"com.example.env": "test"}, {TEAM: "db", "com.example.env": "test"}):
        assert not made.matches(labels)
    assert judged(made, call("/containers/json"), Scope.FILTER).only == (f"{TEAM}=web", "com.example.env")
    with pytest.raises(Denied, match=r"container mine is outside the labels \(com.example.team=web, com.example.env\)"):
        judged(made, call("/containers/{id}/start", id="mine"), Scope.CONTAINER)
    with pytest.raises(Denied, match="volume mine"):
        judged(made, call("/volumes/{name}", name="mine"), Scope.VOLUME)
    with pytest.raises(Denied, match="network mine"):
        judged(made, call("/networks/{id}", id="mine"), Scope.NETWORK)


def test_images_need_the_label_unless_shared_images_is_set() -> None:
    with pytest.raises(Denied, match="image plain is outside"):
        created(judge(), Image="plain")
    judged(judge(shared_images=True), call("/images/create", query={"fromImage": ["x"]}), Scope.PULL)
    for made, query in ((judge(), {"fromImage": ["x"]}), (judge(shared_images=True), {"fromSrc": ["-"]})):
        with pytest.raises(Denied):
            judged(made, call("/images/create", query=query), Scope.PULL)


def test_push_needs_the_label_on_each_image_unless_shared_images_is_set() -> None:
    for name in ("plain", "both"):
        with pytest.raises(Denied, match="image plain is outside"):
            judged(judge(), call("/images/{name}/push", name=name), Scope.PUSH)
        judged(judge(shared_images=True), call("/images/{name}/push", name=name), Scope.PUSH)
    judged(judge(), call("/images/{name}/push", name="ours"), Scope.PUSH)


def test_create_request_must_contain_a_listener_label_that_has_no_value() -> None:
    made = judge(TEAM, shared_images=True)
    assert created(made, Image="plain", Labels={TEAM: "any"}).labels == {TEAM: "any"}
    with pytest.raises(Denied, match="a container with these labels is outside"):
        created(made, Image="plain")
    with pytest.raises(Denied, match="volume new, which does not exist yet, is outside"):
        created(made, Image="plain", Labels={TEAM: "any"}, HostConfig={"Binds": ["new:/d"]})
    created(judge(shared_images=True), Image="plain", HostConfig={"Binds": ["new:/d", "mine:/m", "/anonymous"]})


def test_client_can_use_an_exec_only_if_its_container_is_in_the_scope() -> None:
    """A client may use an exec only if it may access the container of the exec."""
    judged(judge(), call("/exec/{id}/start", id="mine"), Scope.EXEC)
    with pytest.raises(Denied, match="container theirs is outside"):
        judged(judge(), call("/exec/{id}/start", id="theirs"), Scope.EXEC)


def test_an_exec_is_created_in_a_container_of_the_scope_without_privileges() -> None:
    made = judged(judge(), call("/containers/{id}/exec", {"Cmd": ["true"]}, id="mine"), Scope.EXEC_CREATE)
    assert made.params == {"id": "1" * 64}
    with pytest.raises(Denied, match="container theirs is outside"):
        judged(judge(), call("/containers/{id}/exec", {"Cmd": ["true"]}, id="theirs"), Scope.EXEC_CREATE)
    with pytest.raises(Denied, match="a privileged exec"):
        judged(judge(), call("/containers/{id}/exec", {"Privileged": True}, id="mine"), Scope.EXEC_CREATE)


def test_image_requested_by_name_needs_the_label() -> None:
    judged(judge(), call("/images/{name}/json", name="ours"), Scope.IMAGE)
    with pytest.raises(Denied, match="image plain is outside"):
        judged(judge(), call("/images/{name}/json", name="plain"), Scope.IMAGE)
    with pytest.raises(Denied, match="image mixed is outside"):
        judged(judge(), call("/images/{name}/json", name="mixed"), Scope.IMAGE)


def test_named_volume_must_exist_if_the_listener_label_has_no_value() -> None:
    """Labels without a value cannot be added to new volumes, so a named volume must exist already."""
    mounts = [{"Type": "volume", "Target": "/d"}, {"Type": "bind", "Source": "/etc", "Target": "/e"}]
    made = judge(TEAM, shared_images=True)
    host = {"Binds": ["/etc:/d"], "Mounts": mounts, "NetworkMode": "mine"}
    assert created(made, Image="plain", Labels={TEAM: "web"}, HostConfig=host).host_config
    for named in ({"Binds": ["new:/d"]}, {"Mounts": [{"Type": "volume", "Source": "new", "Target": "/d"}]}):
        with pytest.raises(Denied, match="volume new, which does not exist yet,"):
            created(made, Image="plain", Labels={TEAM: "web"}, HostConfig={**named, "NetworkMode": "mine"})


def test_listener_cannot_create_a_volume_with_the_name_of_a_volume_outside_its_labels() -> None:
    asked = judged(judge(), call("/volumes/create", {"Name": "new"}), Scope.NEW_VOLUME)
    assert isinstance(asked.body, VolumeCreateRequest)
    assert asked.body.labels == {TEAM: "web"}
    judged(judge(), call("/volumes/create", {"Name": "mine"}), Scope.NEW_VOLUME)
    with pytest.raises(Denied, match="volume theirs is outside"):
        judged(judge(), call("/volumes/create", {"Name": "theirs"}), Scope.NEW_VOLUME)


def test_scope_contains_only_containers_with_the_labels() -> None:
    engine = SimpleNamespace(
        containers=SimpleNamespace(index=SimpleNamespace(by_id={"1": MINE, "2": container("2", **{TEAM: "db"})}))
    )
    scope = LabelScope(
        cast("Any", engine), ListenerPolicy.of(Listener(host="unix:///x", role="full", labels=(f"{TEAM}=web",)))
    )
    assert [scope.has_container(each) for each in "123"] == [True, False, False]


def test_long_cycle_of_shared_namespaces_is_detected() -> None:
    circle = FakeCollection(
        **{each: container(each, modes={"pid_mode": f"container:{to}"}) for each, to in ("ab", "bc", "cb")}
    )
    host = HostConfig(pid_mode="container:a")
    assert [*inherited_access.of_others(cast("Any", circle), host)] == ["PidMode container:a, which is part of a cycle,"]
