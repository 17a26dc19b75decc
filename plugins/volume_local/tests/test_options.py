"""Options of local volumes and the mounts that they describe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from orlop_sdk import DriverError, InvalidParameter, Mount, Unavailable, VolumeContext
from orlop_volume_local import LocalVolumes
from orlop_volume_local.options import Kept, address_to_resolve, check_options, mount_of, with_address


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"foo": "x"}, 'invalid option: "foo"'),
        ({"type": "nfs"}, 'missing required option: "device"'),
        ({"o": "bind"}, 'missing required option: "device"'),
        ({"size": "1m"}, "quota size requested but no quota support"),
        ({"type": "none", "o": "bind", "device": "etc"}, "is not an absolute path"),
    ],
)
def test_invalid_options_are_refused_with_dockers_messages(options: dict[str, str], complaint: str) -> None:
    with pytest.raises(InvalidParameter, match=complaint):
        check_options(options)


def test_volume_options_determine_the_mount() -> None:
    assert mount_of(Kept("none", "bind,ro", "/srv")) == Mount("bind", "/srv", "", ("bind", "ro"))
    assert mount_of(Kept("tmpfs", "size=1m,uid=5", "tmpfs")) == Mount("tmpfs", "tmpfs", "", ("size=1m", "uid=5"))
    nfs = Kept("nfs", "addr=files.example,rw,nfsvers=4", ":/export")
    assert address_to_resolve(nfs) == "files.example"
    assert mount_of(with_address(nfs, "192.0.2.1")) == Mount("nfs", ":/export", "", ("addr=192.0.2.1", "rw", "nfsvers=4"))
    assert address_to_resolve(Kept("nfs", "addr=192.0.2.1", ":/export")) == ""
    assert address_to_resolve(Kept("ext4", "addr=files.example", "/dev/sdz")) == ""


def test_options_are_stored_in_dockers_form(tmp_path: Path) -> None:
    async def main() -> None:
        made = await LocalVolumes(context).create("data", {"type": "none", "o": "bind", "device": "/no/such"})
        assert (await LocalVolumes(context).get("data")) == made
        assert made.options == {"type": "none", "o": "bind", "device": "/no/such"}
        with pytest.raises(DriverError, match=r"failed to mount local volume: mount /no/such:.*: no such file"):
            await LocalVolumes(context).mounts("data")
        assert (await LocalVolumes(context).usage("data")).size == -1
        await LocalVolumes(context).create("net", {"type": "nfs", "o": "addr=nobody.invalid", "device": ":/x"})
        with pytest.raises(Unavailable, match="error resolving passed in network volume address"):
            await LocalVolumes(context).mounts("net")

    context = VolumeContext(str(tmp_path))
    trio.run(main)
    kept = (tmp_path / "data/opts.json").read_text()
    assert kept == '{"MountType":"none","MountOpts":"bind","MountDevice":"/no/such","Quota":{"Size":0}}'
    assert oct(os.stat(tmp_path / "data").st_mode & 0o777) == "0o701"
    assert oct(os.stat(tmp_path / "data/_data").st_mode & 0o777) == "0o755"


@pytest.mark.root
def test_tmpfs_volume_is_shared_and_removed_with_the_volume(tmp_path: Path) -> None:
    async def main() -> None:
        driver = LocalVolumes(VolumeContext(str(tmp_path)))
        await driver.create("fast", {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=1777"})
        assert not os.path.ismount(data)
        for _ in range(2):
            assert await driver.mounts("fast") == (Mount("bind", data, "", ("bind", "rprivate")),)
        assert os.path.ismount(data)
        assert os.stat(data).st_mode & 0o7777 == 0o1777
        await driver.remove("fast")
        assert not os.path.exists(data)

    data = str(tmp_path / "fast/_data")
    trio.run(main)
    assert data not in Path("/proc/self/mountinfo").read_text()
