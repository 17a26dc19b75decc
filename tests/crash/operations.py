"""The interrupted operations.

Every operation works on a container, network, volume or image named `xx`. Two other containers always exist: `by` runs, and
`idle` does not. The name of the network `aa` sorts before `bridge`. So `aa` becomes the gateway of a container that is on
both networks.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import tarfile
import time
import urllib.parse
from dataclasses import replace
from functools import cache
from typing import Any

from tests.integration.engine import BUSYBOX, Engine, alive, until
from tests.registry import Attested, Image, busybox, docker_archive, image, layer, push, running
from tests.registry.receiving import receiving, refuse

from orlop_sdk.testing.ports import free_port

from . import adoptions, builds
from .operation import Operation, Refused, Step, all_of, ask, request

__all__ = ["OPERATIONS", "close_shared", "container"]

# On SIGTERM, writes a line and exits with 3.
_TRAPPED = ["sh", "-c", 'trap "echo told; exit 3" TERM; echo begun; while :; do sleep 600 & wait $!; done']
_SMALL = "small:latest"


# --- containers -------------------------------------------------------------------------------------------------------


def container(name: str, *command: str, volumes: bool = False, ports: bool = False, **host: Any) -> Step:
    """The step that creates the container. The host ports are chosen when this function is called."""
    body: dict[str, Any] = {"Image": "busybox", "Cmd": list(command) or _TRAPPED, "HostConfig": host}
    body |= {key: host.pop(key) for key in ("StopSignal", "Labels") if key in host}
    if volumes:
        body["Volumes"] = {"/anonymous": {}}
        host["Binds"] = ["data:/data"]
    if ports:
        body["ExposedPorts"] = {"80/tcp": {}, "53/udp": {}}
        host["PortBindings"] = {
            "80/tcp": [{"HostPort": str(free_port())}, {"HostIp": "127.0.0.1", "HostPort": str(free_port())}],
            "53/udp": [{"HostPort": str(free_port())}],
        }
    return request("POST", f"/containers/create?name={name}", body)


_start = request("POST", "/containers/xx/start")
_full = container("xx", volumes=True, ports=True)  # with volumes, no sandbox is prepared at create
_killed = request("POST", "/containers/xx/kill")
_published = container("xx", ports=True)
_prune = request("POST", "/containers/prune?filters=" + urllib.parse.quote('{"label": ["mine"]}'))
_ran = all_of(_published, _start, _killed)
_running = all_of(_full, _start, lambda engine: _until_logged(engine, b"begun"))
_remove = request("DELETE", "/containers/xx?force=1&v=1", None, 404)
_pause, _unpause = request("POST", "/containers/xx/pause"), request("POST", "/containers/xx/unpause")
_gone = all_of(_remove, request("DELETE", "/volumes/data", None, 404))
_term = all_of(
    lambda engine: os.kill(int(engine.inspect("xx")["State"]["Pid"]), signal.SIGTERM),
    lambda engine: until(lambda: engine.state("xx") == "exited"),
)


def _until_logged(engine: Engine, words: bytes) -> None:
    until(lambda: words in ask(engine, "GET", "/containers/xx/logs?stdout=1"), "the container's first words")


def _until_removed(engine: Engine) -> None:
    until(lambda: engine.api("GET", "/containers/xx/json")[0] == 404, "the container is removed")


def _until_run_again(engine: Engine) -> None:
    def again() -> bool:
        found = engine.inspect("xx")
        return found["State"]["Status"] == "running" and found["RestartCount"] > 0

    until(again, "it is restarted")


def _kill_init(engine: Engine) -> None:
    os.kill(int(engine.inspect("xx")["State"]["Pid"]), signal.SIGKILL)


def _exec(engine: Engine) -> None:
    made = json.loads(ask(engine, "POST", "/containers/xx/exec", {"Cmd": ["echo", "well"], "AttachStdout": True}))
    said = ask(engine, "POST", f"/exec/{made['Id']}/start", {"Detach": False})
    if b"well" not in said:
        raise Refused(f"the exec said {said!r}")
    until(lambda: json.loads(ask(engine, "GET", f"/exec/{made['Id']}/json"))["ExitCode"] == 0, "its exit code")


def _talk(engine: Engine) -> None:
    ask(engine, "POST", "/containers/xx/kill?signal=USR1")
    _until_logged(engine, b"line 200\n")


_TALKER = [
    "sh",
    "-c",
    "trap 'for i in $(seq 200); do echo line $i; done' USR1; echo begun; while :; do sleep 600 & wait $!; done",
]


_talking = all_of(container("xx", *_TALKER), _start, lambda engine: _until_logged(engine, b"begun"))


# --- images -----------------------------------------------------------------------------------------------------------


@cache
def _two_layers() -> Image:
    return image([layer(busybox()), layer({"etc/more": b"more\n" * 100, "etc/words": os.urandom(200_000)})])


@cache
def _one_layer() -> Image:
    return image([layer({"etc/words": os.urandom(200_000)})])


@cache
def _attested() -> Attested:
    """An index of two platforms, with an attestation about each."""
    other = image([layer({"etc/other": b"1"}, oci=True)], platform={"os": "linux", "architecture": "s390x"}, oci=True)
    return Attested(image([layer({"etc/words": os.urandom(200_000)}, oci=True)], oci=True), other)


def _names_for_push() -> tuple[str, str]:
    return f"{registry()}/pushed:one", f"{_refusing()}/pushed:one"


@cache
def registry() -> str:
    """The address of a registry, which runs until this process ends."""
    opened = running()
    found = opened.__enter__()
    push(found.host, "two", "latest", _two_layers())
    _attested().push(found, "attested", "v1")
    _registries.append(opened)
    return found.host


_registries: list[contextlib.AbstractContextManager[Any]] = []


def close_shared() -> None:
    """Close the objects that operations share: registries, and the roots of dockerds."""
    adoptions.close()
    while _registries:
        _registries.pop().__exit__(None, None, None)
    registry.cache_clear()
    _refusing.cache_clear()


def _pull(engine: Engine) -> None:
    said = ask(engine, "POST", f"/images/create?fromImage={registry()}/two&tag=latest")
    if b'"errorDetail"' in said or b"Status: " not in said:
        raise Refused(f"pull: {said[-300:]!r}")
    # The pull is complete when the image is usable
    ask(engine, "GET", f"/images/{registry()}/two:latest/json")


def _load(engine: Engine) -> None:
    said = ask(engine, "POST", "/images/load?quiet=1", docker_archive({_SMALL: _two_layers()}))
    if b"Loaded image" not in said:
        raise Refused(f"load: {said[-300:]!r}")


@cache
def _refusing() -> str:
    """The address of a registry that accepts no upload."""
    opened = receiving()
    found = opened.__enter__()
    found.script("POST", *[refuse(403, "DENIED", "no")] * 10_000)
    _registries.append(opened)
    return found.host


def _save(engine: Engine) -> None:
    said = ask(engine, "GET", f"/images/get?names={_SMALL}")
    with tarfile.open(fileobj=io.BytesIO(said)) as archive:
        if archive.getnames()[-1] != "repositories":
            raise Refused(f"save: {said[-300:]!r}")


def _load_for_push(engine: Engine) -> None:
    """An image with one layer, which is stored as a plain tar. A push compresses the layer."""
    ask(engine, "POST", "/images/load?quiet=1", docker_archive(dict.fromkeys(_names_for_push(), _one_layer())))


def _push(engine: Engine) -> None:
    name = _names_for_push()[0]
    said = ask(engine, "POST", f"/images/{name}/push", {})
    if b'"aux"' not in said:
        raise Refused(f"push: {said[-300:]!r}")
    if not json.loads(ask(engine, "GET", f"/images/{name}/json"))["RepoDigests"]:
        raise Refused("push: the image has no digest")


def _compress(engine: Engine) -> None:
    said = ask(engine, "POST", f"/images/{_names_for_push()[1]}/push", {})
    if b"denied: no" not in said:
        raise Refused(f"push: {said[-300:]!r}")


def _pull_attested(engine: Engine) -> None:
    said = ask(engine, "POST", f"/images/create?fromImage={registry()}/attested&tag=v1")
    if b'"errorDetail"' in said or b"Status: " not in said:
        raise Refused(f"pull: {said[-300:]!r}")
    shown = json.loads(ask(engine, "GET", f"/images/{registry()}/attested:v1/json?manifests=1"))["Manifests"]
    if [one["Available"] for one in shown] != [True, False, True, False]:
        raise Refused("pull: the attestation is missing")


def _unpull_attested(engine: Engine) -> None:
    ask(engine, "DELETE", f"/images/{registry()}/attested:v1", None, 404)


def _load_index(engine: Engine) -> None:
    ask(engine, "POST", "/images/load?quiet=1", _attested().archive(f"{registry()}/pushed:index"))


def _push_index(engine: Engine) -> None:
    name = f"{registry()}/pushed:index"
    said = ask(engine, "POST", f"/images/{name}/push", {})
    digest = _attested().index.digest
    if f'"Digest":"{digest}"'.encode() not in said:
        raise Refused(f"push: {said[-300:]!r}")
    if not json.loads(ask(engine, "GET", f"/images/{registry()}/pushed@{digest}/json"))["RepoDigests"]:
        raise Refused("push: the image has no digest")


def _unpush_index(engine: Engine) -> None:
    ask(engine, "DELETE", f"/images/{registry()}/pushed:index", None, 404)


def _unpush(engine: Engine) -> None:
    for name in _names_for_push():
        ask(engine, "DELETE", f"/images/{name}", None, 404)


def _unpull(engine: Engine) -> None:
    ask(engine, "DELETE", f"/images/{registry()}/two:latest", None, 404)


_commit = request("POST", "/commit?container=xx&repo=committed&tag=one")
_uncommit = request("DELETE", "/images/committed:one", None, 404)
_changed = all_of(
    container("xx", "sh", "-c", "echo new > /etc/new; rm /etc/passwd; mkdir /made; echo begun; exec sleep 600"),
    _start,
    lambda engine: _until_logged(engine, b"begun"),
)
_unload = request("DELETE", f"/images/{_SMALL}", None, 404)
_tag = request("POST", f"/images/{BUSYBOX}/tag?repo=other&tag=one")
_untag = request("DELETE", "/images/other:one", None, 404)
_import = request("POST", "/images/create?fromSrc=-&repo=imported&tag=one", layer(busybox(), compression="").data)
_unimport = request("DELETE", "/images/imported:one", None, 404)


# --- networks and volumes ---------------------------------------------------------------------------------------------

_net = request("POST", "/networks/create", {"Name": "xx"})
_unnet = request("DELETE", "/networks/xx", None, 404)
_macvlan = request("POST", "/networks/create", {"Name": "xx", "Driver": "macvlan"})
_connect = request("POST", "/networks/xx/connect", {"Container": "xx"})
_disconnect = request("POST", "/networks/xx/disconnect", {"Container": "xx", "Force": True})
_on_net = all_of(_net, container("xx", ports=True), _start)
_beside_gateway = all_of(request("POST", "/networks/create", {"Name": "aa"}), container("xx", ports=True), _start)
_to_gateway = request("POST", "/networks/aa/connect", {"Container": "xx"})
_to_no_gateway = request("POST", "/networks/aa/connect", {"Container": "xx", "EndpointConfig": {"GwPriority": -1}})
_from_gateway = request("POST", "/networks/aa/disconnect", {"Container": "xx"})
_ungateway = all_of(_gone, request("DELETE", "/networks/aa", None, 404))
_volume = request("POST", "/volumes/create", {"Name": "data"})
_unvolume = request("DELETE", "/volumes/data", None, 404)
_filters = urllib.parse.urlencode({"filters": json.dumps({"all": ["true"]})})


def _lapse(engine: Engine) -> None:
    time.sleep(1.1)  # a prepared sandbox is discarded after a second


OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("create", (container("xx"),), undo=_gone),
        Operation("create-volumes", (_full,), undo=_gone, between=(_volume,)),
        Operation("create-lapse", (container("xx"), _lapse), undo=_gone),
        Operation("start", (_start,), _full, _gone),
        Operation("run", (_published, _start), undo=_gone),
        Operation("run-rm", (container("xx", "true", AutoRemove=True), all_of(_start, _until_removed)), undo=_gone),
        Operation("stop", (request("POST", "/containers/xx/stop?t=5", None, 304),), _running, _gone),
        Operation("kill", (_killed,), _running, _gone),
        Operation("restart", (request("POST", "/containers/xx/restart?t=5"),), _running, _gone, between=(_term,)),
        Operation("pause", (_pause, _unpause), _running, _gone),
        Operation("exit", (_term,), _running, _gone),
        Operation(
            "exit-again",
            (all_of(_kill_init, _until_run_again),),
            all_of(container("xx", RestartPolicy={"Name": "always"}), _start),
            _gone,
        ),
        Operation("rm", (request("DELETE", "/containers/xx?v=1"), _unvolume), _full, _gone),
        Operation("rm-force", (_remove, _unvolume), _running, _gone, between=(_killed,)),
        Operation("rename", (request("POST", "/containers/xx/rename?name=yy"),), container("xx", volumes=True),
                  all_of(request("DELETE", "/containers/yy?v=1", None, 404), _gone)),
        Operation("exec", (_exec,), _running, _gone),
        Operation("prune", (_prune,), container("xx", Labels={"mine": ""}), _gone),
        Operation("network-create", (_net,), undo=_unnet),
        Operation("network-rm", (request("DELETE", "/networks/xx"),), _net, _unnet),
        Operation("network-connect", (_connect,), _on_net, all_of(_gone, _unnet)),
        Operation("network-disconnect", (_disconnect,), all_of(_on_net, _connect), all_of(_gone, _unnet)),
        Operation("macvlan-create", (_macvlan,), undo=_unnet),
        Operation("macvlan-rm", (request("DELETE", "/networks/xx"),), _macvlan, _unnet),
        Operation("macvlan-connect", (_connect,), all_of(_macvlan, container("xx"), _start), all_of(_gone, _unnet)),
        Operation("gateway-connect", (_to_gateway,), _beside_gateway, _ungateway, between=(_to_no_gateway,)),
        Operation("gateway-disconnect", (_from_gateway,), all_of(_beside_gateway, _to_gateway), _ungateway),
        Operation("network-connect-stopped", (_connect, _start), all_of(_net, _full), all_of(_gone, _unnet)),
        Operation("network-prune", (request("POST", "/networks/prune"),), _net, _unnet),
        Operation("volume-create", (_volume,), undo=_unvolume),
        Operation("volume-rm", (request("DELETE", "/volumes/data"),), _volume, _unvolume),
        Operation("volume-prune", (request("POST", f"/volumes/prune?{_filters}"),), _volume, _unvolume),
        Operation("pull", (_pull,), undo=_unpull, resumes=True),
        Operation("pull-attested", (_pull_attested,), undo=_unpull_attested, resumes=True),
        Operation("push-index", (_push_index,), _load_index, _unpush_index),
        Operation("push", (_push,), _load_for_push, _unpush, between=(_compress,)),
        Operation("load", (_load,), undo=_unload),
        Operation("save", (_save,), _load, _unload),
        Operation("import", (_import,), undo=_unimport),
        Operation("commit", (_commit,), _changed, all_of(_gone, _uncommit)),
        Operation("tag", (_tag,), undo=_untag),
        Operation("untag", (request("DELETE", "/images/other:one"),), _tag, _untag),
        Operation("rmi", (request("DELETE", f"/images/{_SMALL}"),), _load, _unload),
        Operation("boot", (), all_of(_running, container("yy", RestartPolicy={"Name": "always"}),
                                   request("POST", "/containers/yy/start")),
                  all_of(request("DELETE", "/containers/yy?force=1", None, 404), _gone), "boot"),
        Operation("shutdown", (lambda engine: _terminate(engine),), _running, _gone, between=(_term,)),
        Operation("monitor-start", (_start,), _full, _gone, "fork", (all_of(_start, _killed),)),
        Operation("monitor-run", (_published, _start), undo=_gone, victim="fork", between=(_ran,)),
        Operation("monitor-output", (_talk,), _talking, _gone, "monitor", (_killed,)),
        Operation("monitor-exec", (_exec,), _running, _gone, "monitor", (_killed,)),
        Operation("monitor-exit", (_term,), _running, _gone, "monitor"),
        Operation("monitor-stop", (request("POST", "/containers/xx/stop?t=5", None, 304),), _running, _gone, "monitor"),
        Operation("monitor-again", (all_of(_kill_init, _until_run_again),),
                  all_of(container("xx", RestartPolicy={"Name": "always"}), _start), _gone, "monitor"),
        Operation("worker-pull", (_pull,), undo=_unpull, victim="fork", resumes=True),
        Operation("worker-load", (_load,), undo=_unload, victim="fork"),
        Operation("zygote-run", (_published, _start), undo=_gone, victim="zygote"),
        Operation("zygote-pull", (_pull,), undo=_unpull, victim="zygote", resumes=True),
        *adoptions.OPERATIONS,
        *builds.OPERATIONS,
    )
}  # fmt: skip
OPERATIONS |= {
    f"erofs-{name}": replace(OPERATIONS[name], name=f"erofs-{name}", storage="erofs")
    for name in ("build", "commit", "load", "pull", "rmi", "worker-load")
}


def _terminate(engine: Engine) -> None:
    assert engine.process is not None
    os.kill(engine.process.pid, signal.SIGTERM)
    # Popen's methods call waitpid, which would take stops of the traced process from its tracer
    until(lambda: not alive(engine.process.pid) if engine.process else True, "the daemon's end")
