"""Volumes of plugins with Docker's protocol. A plugin program (`volume_plugin`) gets the same calls from orlopd as from a
real dockerd; plugins that have ended or misbehave; restarts of the daemon.

A dockerd calls each plugin that it finds, and waits 15 s in each operation for a plugin that has ended. So these tests have
a mount namespace with a directory of plugins of their own, and no other dockerd sees the plugins.

The tests leave out the method Get, which changes nothing: dockerd calls it before almost every operation.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration import volume_plugin
from tests.integration.engine import BUSYBOX, Engine, patience, until
from tests.integration.parity import Side, beside_dockerd, both

pytestmark = pytest.mark.root

PLUGINS = "/run/docker/plugins"


class Namespace:
    """A mount namespace with a private directory of plugins. It disappears with the process that keeps it."""

    def __init__(self) -> None:
        self.plugins = Path(tempfile.mkdtemp(prefix="ovn-", dir="/tmp"))
        Path(PLUGINS).mkdir(parents=True, exist_ok=True)
        script = f"mount --bind {self.plugins} {PLUGINS} && echo ready && exec sleep infinity"
        argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
        self._keeper = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"ready\n"
        self.prefix = ("nsenter", f"--mount=/proc/{self._keeper.pid}/ns/mnt", "--")

    def mounts(self) -> str:
        return Path(f"/proc/{self._keeper.pid}/mountinfo").read_text()

    def close(self) -> None:
        self._keeper.kill()
        self._keeper.communicate()
        shutil.rmtree(self.plugins)


class Plugin:
    """A running plugin program with a name of its own."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.home = Path(tempfile.mkdtemp(prefix="ovp-", dir="/tmp"))
        self.name = self.home.name
        self.path = f"{PLUGINS}/{self.name}.sock"
        self._socket = namespace.plugins / f"{self.name}.sock"
        self.start()

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        argv = [sys.executable, volume_plugin.__file__, self.path, str(self.home)]
        self.process = subprocess.Popen([*self._namespace.prefix, *argv])
        until(self._socket.exists, "the plugin's socket")

    def end(self, *, keep_socket: bool = False) -> None:
        self.process.kill()
        self.process.wait()
        if not keep_socket:
            self._socket.unlink()

    def fault(self, **faults: Any) -> None:
        file = self.home / "faults.new"
        kinds = {"Activate": "Plugin"}
        made = {f"{kinds.get(method, 'VolumeDriver')}.{method}": fault for method, fault in faults.items()}
        file.write_text(json.dumps(made))
        file.rename(self.home / "faults")

    def calls(self, volume: str) -> list[tuple[str, Any]]:
        """The calls for a volume that change something, without the IDs of uses."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.home / "calls").read_text().splitlines()
            made = [(each["method"], json.loads(each["body"] or "{}")) for each in map(json.loads, lines)]
            return [
                (method.removeprefix("VolumeDriver."), {**body, "ID": "ID"} if "ID" in body else body)
                for method, body in made
                if body.get("Name") == volume and method != "VolumeDriver.Get"
            ]
        return []

    def users(self, volume: str, method: str) -> list[str]:
        lines = map(json.loads, (self.home / "calls").read_text().splitlines())
        bodies = [json.loads(each["body"]) for each in lines if each["method"] == f"VolumeDriver.{method}"]
        return [body["ID"] for body in bodies if body["Name"] == volume]

    def mounted(self) -> list[str]:
        return re.findall(rf" {re.escape(str(self.home))}/mnt/(\S+) ", self._namespace.mounts())

    def unmount(self, volume: str) -> None:
        subprocess.run([*self._namespace.prefix, "umount", self.home / "mnt" / volume], check=True)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.unlink(missing_ok=True)
        left = self.mounted()
        for name in left:
            self.unmount(name)
        shutil.rmtree(self.home)
        assert not left, f"the plugin's volumes {left} were still mounted"


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def engine(namespace: Namespace) -> Iterator[Engine]:
    made = Engine({"shutdown-timeout": 3}, prefix=namespace.prefix)
    try:
        made.start()
        made.load()
        yield made
    finally:
        left = made.close()
    assert not left, "\n".join(left)


@pytest.fixture(scope="module")
def common_plugin(namespace: Namespace) -> Iterator[Plugin]:
    """The plugin of the comparisons. It ends after dockerd."""
    made = Plugin(namespace)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def sides(
    engine: Engine, namespace: Namespace, common_plugin: Plugin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Side, Side]]:
    if not shutil.which("dockerd"):
        pytest.skip("no dockerd to compare with")
    with beside_dockerd(engine, tmp_path_factory.mktemp("dockerd"), namespace.prefix, filled=False) as both:
        yield both


@pytest.fixture
def plugin(namespace: Namespace) -> Iterator[Plugin]:
    made = Plugin(namespace)
    try:
        yield made
    finally:
        made.close()


def settled(plugin: Plugin, volume: str) -> list[tuple[str, Any]]:
    """The calls for a volume, once each Mount has an Unmount."""

    def balanced() -> bool:
        methods = [method for method, _ in plugin.calls(volume)]
        return methods.count("Mount") == methods.count("Unmount")

    until(balanced, "the end of all uses")
    return plugin.calls(volume)


def run(side: Side, host: dict[str, Any], command: list[str]) -> None:
    """Create, run and remove a container."""
    container = ran(side, host, command)
    assert side.api("DELETE", f"/containers/{container}?v=1")[0] == 204


def ran(side: Side, host: dict[str, Any], command: list[str]) -> str:
    body = {"Image": BUSYBOX, "Cmd": command, "HostConfig": {"NetworkMode": "none", **host}}
    status, made = side.api("POST", "/containers/create", body)
    assert status == 201, made
    assert side.api("POST", f"/containers/{made['Id']}/start")[0] == 204
    assert side.api("POST", f"/containers/{made['Id']}/wait")[1]["StatusCode"] == 0
    return str(made["Id"])


def test_plugin_gets_the_same_calls_as_from_dockerd(sides: tuple[Side, Side], common_plugin: Plugin, name: str) -> None:
    """The path /etc exists in the image, so both engines also fill the empty volume at the create."""
    mount = {"Type": "volume", "Target": "/etc", "VolumeOptions": {"DriverConfig": {"Name": common_plugin.name}}}

    def use(side: Side) -> list[tuple[str, Any]]:
        volume = f"{name}-{side.name}"
        created = side.api(
            "POST", "/volumes/create", {"Name": volume, "Driver": common_plugin.name, "DriverOpts": {"k": "v"}}
        )
        assert created[0] == 201 and created[1]["Scope"] == "global"
        assert side.api("POST", "/volumes/create", {"Name": volume, "Driver": common_plugin.name})[0] == 201
        run(side, {"Mounts": [{**mount, "Source": volume}]}, ["sh", "-c", "test -e /etc/passwd && echo hi >/etc/f"])
        container = ran(side, {"Mounts": [{**mount, "Source": volume}]}, ["test", "-s", "/etc/f"])
        settled(common_plugin, volume)
        assert side.api("POST", f"/containers/{container}/start")[0] == 204
        assert side.api("POST", f"/containers/{container}/wait")[1]["StatusCode"] == 0
        assert side.api("DELETE", f"/volumes/{volume}")[0] == 409
        assert side.api("DELETE", f"/containers/{container}")[0] == 204
        settled(common_plugin, volume)
        assert side.api("DELETE", f"/volumes/{volume}")[0] == 204
        assert side.api("GET", f"/volumes/{volume}")[0] == 404
        return [(method, {**body, "Name": "V"}) for method, body in settled(common_plugin, volume)]

    theirs, ours = both(sides, use)
    assert ours == theirs
    assert ours[0] == ("Create", {"Name": "V", "Opts": {"k": "v"}}) and ours[-1] == ("Remove", {"Name": "V"})


def test_new_volume_of_a_container_is_created_without_options_as_by_dockerd(
    sides: tuple[Side, Side], common_plugin: Plugin, name: str
) -> None:
    def use(side: Side) -> list[tuple[str, Any]]:
        volume = f"{name}-{side.name}"
        run(side, {"VolumeDriver": common_plugin.name, "Binds": [f"{volume}:/etc"]}, ["true"])
        found = [(method, {**body, "Name": "V"}) for method, body in settled(common_plugin, volume)]
        assert side.api("DELETE", f"/volumes/{volume}")[0] == 204
        return found

    theirs, ours = both(sides, use)
    assert ours == theirs and ours[0] == ("Create", {"Name": "V", "Opts": None})


def test_errors_of_a_plugin_are_the_same_as_from_dockerd(sides: tuple[Side, Side], common_plugin: Plugin, name: str) -> None:
    def use(side: Side) -> list[tuple[int, str]]:
        volume = f"{name}-{side.name}"
        body = {"Name": volume, "Driver": common_plugin.name}
        found = [side.api("POST", "/volumes/create", {**body, "DriverOpts": {"bad": "1"}})]
        assert side.api("POST", "/volumes/create", body)[0] == 201
        found.append(side.api("POST", "/volumes/create", {**body, "Driver": "local"}))
        return [(status, answer["message"].replace(volume, "V")) for status, answer in found]

    theirs, ours = both(sides, use)
    assert ours == theirs
    common_plugin.fault(Remove={"Err": "busy with it"})

    def remove(side: Side) -> list[Any]:
        volume = f"{name}-{side.name}"
        found = [side.api("DELETE", f"/volumes/{volume}{force}") for force in ("", "?force=1")]
        shown = side.api("GET", f"/volumes/{volume}")
        return [
            *((status, answer["message"].replace(volume, "V")) for status, answer in found),
            shown[0],
            shown[1]["Status"],
        ]

    theirs, ours = both(sides, remove)
    assert ours == theirs and ours[0] == (500, "remove V: VolumeDriver.Remove: busy with it")
    common_plugin.fault()
    both(sides, lambda side: side.api("DELETE", f"/volumes/{name}-{side.name}"))


def test_inspect_shows_the_mount_point_and_the_status_of_a_plugin(engine: Engine, name: str, plugin: Plugin) -> None:
    engine.ok("volume", "create", "-d", plugin.name, name)
    engine.ok("run", "-d", "--name", name, "--network", "none", "-v", f"{name}:/data", BUSYBOX, "sleep", "1000")
    (shown,) = json.loads(engine.ok("volume", "inspect", name))
    assert shown["Mountpoint"] == f"{plugin.home}/mnt/{name}" and shown["Status"] == {"users": 1}
    assert plugin.name in engine.api("GET", "/info")[1]["Plugins"]["Volume"]
    drivers = json.loads(engine.orlop("driver", "list", "--format", "json", check=0).out)
    assert ["volume", "orlop-docker-plugins"] in [
        [each["kind"], each["distribution"]] for each in drivers if each["name"] == plugin.name
    ]
    engine.ok("rm", "-f", name)
    assert shown["Name"] in engine.ok("volume", "ls", "-q").split()
    engine.ok("volume", "rm", name)


def test_containers_share_a_mounted_volume_and_each_has_its_own_use(engine: Engine, name: str, plugin: Plugin) -> None:
    for number in ("1", "2"):
        flags = ("--network", "none", "--volume-driver", plugin.name, "-v", f"{name}:/data")
        engine.ok("run", "-d", "--name", name + number, *flags, BUSYBOX, "sleep", "1000")
    engine.ok("exec", f"{name}1", "sh", "-c", "echo hi >/data/f")
    assert engine.ok("exec", f"{name}2", "cat", "/data/f") == "hi"
    assert len(set(plugin.users(name, "Mount"))) == len(plugin.users(name, "Mount"))
    engine.ok("rm", "-f", f"{name}1")
    assert plugin.mounted() == [name]
    assert engine.ok("exec", f"{name}2", "cat", "/data/f") == "hi"
    engine.ok("rm", "-f", f"{name}2")
    assert plugin.mounted() == []
    assert sorted(plugin.users(name, "Mount")) == sorted(plugin.users(name, "Unmount"))
    engine.ok("volume", "rm", name)


def test_copy_to_a_stopped_container_reaches_the_volume(engine: Engine, name: str, plugin: Plugin, tmp_path: Path) -> None:
    engine.ok("create", "--name", name, "--volume-driver", plugin.name, "-v", f"{name}:/data", BUSYBOX, "cat", "/data/f")
    (tmp_path / "f").write_text("copied")
    engine.ok("cp", str(tmp_path / "f"), f"{name}:/data/f")
    assert (plugin.home / "volumes" / name / "f").read_text() == "copied"
    until(lambda: plugin.mounted() == [], "the end of the copy")
    engine.ok("rm", name)
    engine.ok("volume", "rm", name)


def test_anonymous_volume_is_unmounted_and_removed_with_its_container(engine: Engine, plugin: Plugin) -> None:
    engine.ok("run", "--rm", "--network", "none", "--volume-driver", plugin.name, "-v", "/data", BUSYBOX, "touch", "/data/f")
    assert plugin.mounted() == [] and not list((plugin.home / "volumes").iterdir())


def test_client_without_access_to_the_host_cannot_use_a_volume_of_a_plugin(
    engine: Engine, name: str, plugin: Plugin
) -> None:
    restricted = f"unix://{engine.home}/ci.sock"
    engine.configure({"shutdown-timeout": 3, "listeners": [{"host": restricted, "role": "no-exec"}]})
    engine.restart()
    try:
        engine.ok("volume", "create", "-d", plugin.name, name)
        for argv, what in (
            (f"run --rm -v {name}:/data {BUSYBOX} true", f"the volume {name}, which is a directory or device of the host,"),
            (f"run --rm --volume-driver {plugin.name} -v /data {BUSYBOX} true", f"a volume of driver {plugin.name}"),
            (f"volume create -d {plugin.name} {name}-evil", f"a volume of driver {plugin.name}"),
        ):
            refused = engine.docker("-H", restricted, *argv.split())
            assert refused.code and f"{what} is not allowed for role no-exec" in refused.err
        assert plugin.calls(f"{name}-evil") == [] and not plugin.mounted()
        engine.ok("volume", "rm", name)
    finally:
        engine.configure({"shutdown-timeout": 3})
        engine.restart()


# --- a plugin that has ended ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_socket", [False, True])
def test_containers_of_a_plugin_that_has_ended_can_be_listed_stopped_and_removed(
    engine: Engine, name: str, plugin: Plugin, keep_socket: bool
) -> None:
    flags = ("--network", "none", "--volume-driver", plugin.name, "-v", f"{name}:/data")
    engine.ok("run", "-d", "--name", name, *flags, BUSYBOX, "sleep", "1000")
    plugin.end(keep_socket=keep_socket)
    assert name in engine.ok("ps", "--format", "{{.Names}}").split()
    assert name in engine.ok("volume", "ls", "-q").split()
    assert json.loads(engine.ok("volume", "inspect", name))[0]["Driver"] == plugin.name
    engine.ok("stop", "-t", "0", name)
    refused = engine.docker("start", name, check=1).err
    assert f'volume plugin "{plugin.name}" at unix://{plugin.path} does not answer' in refused
    engine.ok("rm", name)
    refused = engine.docker("volume", "rm", name, check=1).err
    assert f"remove {name}: " in refused and plugin.path in refused
    assert name in engine.ok("volume", "ls", "-q").split()
    engine.ok("volume", "rm", "-f", name)
    assert name not in engine.ok("volume", "ls", "-q").split()
    plugin.unmount(name)  # the plugin could not


def test_volume_lookup_names_the_places_of_a_plugin_that_no_file_names(engine: Engine, name: str, plugin: Plugin) -> None:
    """After a restart, the daemon looks for the plugin again."""
    engine.ok("create", "--name", name, "--volume-driver", plugin.name, "-v", f"{name}:/data", BUSYBOX, "true")
    plugin.end()
    engine.restart()
    refused = engine.docker("start", name, check=1).err
    for place in (f"/run/docker/plugins/{plugin.name}.sock", f"/etc/docker/plugins/{plugin.name}.spec or .json"):
        assert place in refused
    plugin.start()
    engine.ok("start", "-a", name)
    engine.ok("rm", name)
    engine.ok("volume", "rm", name)


# --- restarts of the daemon -------------------------------------------------------------------------------------------


def test_volume_stays_mounted_over_a_restart_of_the_daemon_with_live_restore(
    engine: Engine, name: str, plugin: Plugin
) -> None:
    engine.configure({"live-restore": True, "shutdown-timeout": 3})
    engine.restart()
    flags = ("--network", "none", "--volume-driver", plugin.name, "-v", f"{name}:/data")
    engine.ok("run", "-d", "--name", name, *flags, BUSYBOX, "sh", "-c", "echo hi >/data/f; sleep 1000")
    mounts = plugin.users(name, "Mount")
    for end in (engine.kill, engine.stop):
        end()
        engine.start()
        assert engine.ok("exec", name, "cat", "/data/f") == "hi"
    assert plugin.users(name, "Mount") == mounts and plugin.mounted() == [name]
    engine.ok("rm", "-f", name)
    assert plugin.mounted() == [] and plugin.users(name, "Unmount")[-1:] == mounts[-1:]
    engine.ok("volume", "rm", name)
    engine.configure({"shutdown-timeout": 3})
    engine.restart()


def test_volume_of_a_container_that_ended_without_a_daemon_is_unmounted_by_the_next_daemon(
    engine: Engine, name: str, plugin: Plugin
) -> None:
    flags = ("--network", "none", "--stop-timeout", "0", "--volume-driver", plugin.name, "-v", f"{name}:/data")
    engine.ok("run", "-d", "--name", name, *flags, BUSYBOX, "sleep", "1000")
    engine.kill()
    engine.start()  # without live-restore, this daemon stops the container
    until(lambda: plugin.mounted() == [], "the unmount")
    engine.ok("rm", "-f", name)
    engine.ok("volume", "rm", name)


# --- plugins that misbehave -------------------------------------------------------------------------------------------

WRONG = {
    "error": ({"Err": "no mount today"}, "VolumeDriver.Mount: no mount today"),
    "root": ({"Mountpoint": "/"}, "the mount point '/' is not an absolute path"),
    "relative": ({"Mountpoint": "data"}, "the mount point 'data' is not an absolute path"),
    "parent": ({"Mountpoint": "/tmp/../etc"}, "the mount point '/tmp/../etc' is not an absolute path"),
    "empty": ({"Mountpoint": ""}, "the mount point '' is not an absolute path"),
    "number": ({"Mountpoint": 3}, "the answer to VolumeDriver.Mount cannot be read"),
    "huge": ("huge", "the answer to VolumeDriver.Mount is larger than 4 MiB"),
    "garbage": ("garbage", "does not answer VolumeDriver.Mount"),
    "text": ("text", "the answer to VolumeDriver.Mount cannot be read"),
    "close": ("close", "does not answer VolumeDriver.Mount"),
    "cut": ("cut", "does not answer VolumeDriver.Mount"),
}


def test_wrong_answers_to_a_mount_fail_the_start_and_leave_nothing(engine: Engine, name: str, plugin: Plugin) -> None:
    engine.ok("volume", "create", "-d", plugin.name, name)
    engine.ok("create", "--name", name, "-v", f"{name}:/data:nocopy", BUSYBOX, "true")
    for kind, (fault, message) in WRONG.items():
        plugin.fault(Mount=fault, Unmount={"Err": ""})
        refused = engine.docker("start", name, check=1)
        assert message in refused.err, kind
    plugin.fault()
    engine.ok("start", "-a", name)
    engine.ok("rm", name)
    assert plugin.mounted() == []
    engine.ok("volume", "rm", name)


@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_mount_that_hangs_ends_at_the_deadline_and_delays_nobody_else(
    engine: Engine, name: str, plugin: Plugin, fault: str
) -> None:
    engine.stop()
    engine.start(environment={"ORLOP_DRIVER_TIMEOUT": str(patience(5))})
    engine.ok("volume", "create", "-d", plugin.name, name)
    engine.ok("create", "--name", name, "-v", f"{name}:/data:nocopy", BUSYBOX, "true")
    plugin.fault(Mount=fault, Unmount=fault)
    started = engine.background("start", name)
    try:
        while started.poll() is None:
            began = time.monotonic()
            assert engine.api("GET", "/volumes")[0] == 200
            assert time.monotonic() - began < patience(2)
        assert started.returncode == 1
    finally:
        started.kill()
        started.wait()
    assert "gave no answer in" in engine.docker("start", name, check=1).err
    engine.ok("rm", "-f", name)
    plugin.fault()
    until(lambda: engine.docker("volume", "rm", name).code == 0, "the driver to be called again")
    engine.restart()


ACTIVATIONS: dict[str, tuple[Any, str]] = {
    "other": ({"Implements": ["NetworkDriver"]}, "does not implement VolumeDriver, but NetworkDriver"),
    "nothing": ({}, "does not implement VolumeDriver, but nothing"),
    "error": ({"Err": "not today"}, "Plugin.Activate: not today"),
    "huge": ("huge", "the answer to Plugin.Activate is larger than 4 MiB"),
    "garbage": ("garbage", "does not answer Plugin.Activate"),
    "text": ("text", "the answer to Plugin.Activate cannot be read"),
    "close": ("close", "does not answer Plugin.Activate"),
}


def test_wrong_answers_to_the_handshake_fail_the_create_of_a_volume(engine: Engine, name: str, plugin: Plugin) -> None:
    for kind, (fault, message) in ACTIVATIONS.items():
        plugin.fault(Activate=fault)
        assert message in engine.docker("volume", "create", "-d", plugin.name, name, check=1).err, kind
    plugin.fault()
    engine.ok("volume", "create", "-d", plugin.name, name)
    engine.ok("volume", "rm", name)
