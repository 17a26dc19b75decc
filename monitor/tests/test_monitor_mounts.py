"""Which copies of the host's mounts a monitor unmounts in its own mount namespace."""

from __future__ import annotations

from orlop_monitor.sandbox import _paths, detachable
from orlop_sdk import Mount, mountinfo

MOUNTS = b"""\
20 1 8:1 / / rw - ext4 /dev/a rw
21 20 0:5 / /proc rw - proc proc rw
22 20 0:6 / /data rw - ext4 /dev/b rw
23 22 0:7 / /data/docker rw - ext4 /dev/c rw
24 20 0:8 / /mnt/usb\\040stick rw - vfat /dev/d rw
25 20 0:9 / /srv rw shared:5 - ext4 /dev/e rw
26 25 0:10 / /srv/x rw - ext4 /dev/f rw
27 20 0:11 / /usr/share rw - squashfs /dev/g ro
28 20 0:12 / /media rw shared:6 - ext4 /dev/h rw
29 28 0:13 / /media/inner rw - ext4 /dev/i rw
"""


def _detached(needed: set[str], trees: set[str]) -> list[str]:
    return [entry.path for entry in detachable(mountinfo.parse(MOUNTS), needed, trees)]


def test_octal_escapes_of_mount_points_are_decoded() -> None:
    assert "/mnt/usb stick" in [entry.path for entry in mountinfo.parse(MOUNTS)]


def test_only_the_topmost_mounts_among_unneeded_mounts_are_detached() -> None:
    # The parent mount of /media/inner is shared, so detaching /media/inner would also detach it on the host. Therefore
    # /media/inner stays, and so does /media.
    assert _detached(set(), {"/proc", "/usr"}) == ["/data", "/mnt/usb stick"]


def test_mounts_that_contain_needed_paths_are_not_detached() -> None:
    assert _detached({"/data/docker/overlay2"}, {"/proc", "/usr"}) == ["/mnt/usb stick"]
    assert _detached({"/data/x"}, {"/proc", "/usr"}) == ["/data/docker", "/mnt/usb stick"]


def test_mounts_below_the_source_of_a_bind_mount_are_not_detached() -> None:
    assert _detached(set(), {"/proc", "/usr", "/data"}) == ["/mnt/usb stick"]


def test_mounts_directly_below_a_shared_root_are_not_detached() -> None:
    entries = mountinfo.parse(MOUNTS.replace(b"/ / rw - ext4 /dev/a", b"/ / rw shared:1 - ext4 /dev/a"))
    assert [entry.path for entry in detachable(entries, set(), set())] == ["/data/docker"]


def test_paths_in_mount_options_count_as_needed() -> None:
    mount = Mount("overlay", "overlay", "", ("lowerdir=/a/1:/b/2", "upperdir=/c", "ro", "index=off"))
    assert _paths([mount]) == {"/a/1", "/b/2", "/c"}
    image = Mount("erofs", "/a/layer.erofs", "", ("ro", "device=/b/layer.tar"), "/c/diff")
    assert _paths([image]) == {"/a/layer.erofs", "/b/layer.tar", "/c/diff"}
