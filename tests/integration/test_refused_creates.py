"""A create that is refused or fails half-way leaves nothing: no named or anonymous volume, no layer, no name, no
directory."""

import os

import pytest
from tests.integration.engine import BUSYBOX

pytestmark = pytest.mark.root

ANONYMOUS = {"Image": BUSYBOX, "Volumes": {"/anonymous": {}}}
NAMED = "fresh-volume"

FAILURES = [
    # Refused before anything is created
    ({"HostConfig": {"PidMode": "container:nosuch"}}, 400, "No such container: nosuch"),
    ({"HostConfig": {"IpcMode": "container:nosuch"}}, 400, "No such container: nosuch"),
    ({"HostConfig": {"Tmpfs": {"/t": "huge=always"}}}, 400, 'invalid tmpfs option "huge"'),
    ({"WorkingDir": "relative/"}, 400, "the working directory 'relative/' is invalid, it needs to be an absolute path"),
    # Fails after the volumes were created
    ({"WorkingDir": "/bin/busybox"}, 400, "Cannot mkdir: it is not a directory"),
    ({"HostConfig": {"StorageOpt": {"size": "1G"}}}, 400, "storage option size"),
    ({"HostConfig": {"Binds": [f"{NAMED}:/etc/passwd"]}}, 500, "cannot mount volume over existing file, file exists"),
    (
        {
            "HostConfig": {
                "Binds": [f"{NAMED}:/a"],
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": "other",
                        "Target": "/b",
                        "VolumeOptions": {"DriverConfig": {"Name": "nosuchdriver"}},
                    }
                ],
            }
        },
        400,
        'plugin "nosuchdriver" not found',
    ),
]


def things(engine):
    return {
        "volumes": engine.ok("volume", "ls", "-q").split(),
        "volume directories": sorted(os.listdir(engine.data_root / "volumes")),
        "containers": engine.ok("ps", "-aq"),
        "directories": sorted(os.listdir(engine.data_root / "containers")),
        "layers": sorted(os.listdir(engine.data_root / "overlay2")),
        "runs": sorted(os.listdir(engine.exec_root / "run")),
        "mount points": sorted(os.listdir(engine.exec_root / "mnt")),
    }


@pytest.mark.parametrize(("body", "status", "message"), FAILURES)
def test_refused_create_leaves_nothing(engine, name, body, status, message):
    engine.ok("rm", engine.ok("create", BUSYBOX, "true"))  # creates the image's init layer
    engine.ok("volume", "create", f"kept-{name}")
    before = things(engine)
    host = body.get("HostConfig", {})
    host = {**host, "Binds": [*host.get("Binds", ()), f"kept-{name}:/kept", f"{NAMED}-2:/new"]}
    answer = engine.api("POST", f"/containers/create?name={name}", {**ANONYMOUS, **body, "HostConfig": host})
    assert answer[0] == status and message in answer[1]["message"]
    assert things(engine) == before
    engine.ok("create", "--name", name, BUSYBOX, "true")  # the name is free
    engine.ok("rm", name)
    engine.ok("volume", "rm", f"kept-{name}")


def test_create_that_joins_the_network_of_a_missing_container_is_refused(engine, name):
    """The client gets the error, and no container is created. As in dockerd, the request may name a network that does not
    exist."""
    for flag in ("--pid", "--ipc"):
        refused = engine.docker("run", "--name", name, flag, "container:nosuch", BUSYBOX, "true")
        assert refused.code == 125 and "No such container: nosuch" in refused.err and "Unable to find" not in refused.err
        assert engine.ok("ps", "-aq") == ""
    engine.ok("create", "--name", name, "--network", f"container:late-{name}", BUSYBOX, "true")
    assert f"No such container: late-{name}" in engine.docker("start", name).err
    engine.ok("run", "-d", "--name", f"late-{name}", BUSYBOX, "sleep", "1000")
    engine.ok("start", name)
    engine.ok("rm", "-f", name, f"late-{name}")


def test_file_that_is_not_a_device_is_refused_as_device(engine, name, tmp_path):
    for path in ("/etc", str(tmp_path), "/etc/passwd"):
        refused = engine.docker("run", "--rm", "--device", path, BUSYBOX, "true")
        assert refused.code == 125
        assert f'error gathering device information while adding custom device "{path}": not a device node' in refused.err
    listed = engine.ok("run", "--rm", "--device", "/dev/pts:/dev/terminals", BUSYBOX, "ls", "/dev/terminals")
    assert "ptmx" in listed


@pytest.mark.parametrize("word", ["shared", "rshared", "private", "slave", "unbindable", "size=1m,shared"])
def test_propagation_of_a_tmpfs_is_applied(engine, word):
    shown = engine.ok("run", "--rm", "--tmpfs", f"/t:{word}", BUSYBOX, "grep", " /t ", "/proc/self/mountinfo")
    fields = shown.partition(" - ")[0].split()[6:]
    expected = {"shared": "shared:", "rshared": "shared:", "size=1m,shared": "shared:", "unbindable": "unbindable"}.get(word)
    assert (fields[0].startswith(expected) if expected else fields == []) and "- tmpfs tmpfs rw" in shown


@pytest.mark.parametrize(("given", "clean"), [("/a/b/", "/a/b"), ("//", "/"), ("/a//b/../c/.", "/a/c")])
def test_path_of_the_working_directory_is_normalized(engine, name, given, clean):
    engine.ok("create", "--name", name, "-w", given, BUSYBOX, "pwd")
    assert engine.inspect(name)["Config"]["WorkingDir"] == clean
    assert engine.ok("start", "-a", name) == clean
    engine.ok("rm", name)
