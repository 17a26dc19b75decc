"""Users that are resolved in unmounted layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_engine.containers import layer_users
from orlop_sdk import InvalidParameter, Mount

PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44:web:/srv:/bin/sh\n"


def layer(path: Path, **files: str) -> str:
    (path / "etc").mkdir(parents=True)
    for name, text in files.items():
        (path / "etc" / name).write_text(text)
    return str(path)


def overlay(*layers: str) -> tuple[Mount, ...]:
    return (Mount("overlay", "overlay", "", ("ro", "index=off", "lowerdir=" + ":".join(layers))),)


def test_user_and_group_files_are_read_from_the_uppermost_layer_that_has_them(tmp_path: Path) -> None:
    upper = layer(tmp_path / "upper", group="staff:x:50:web\n")
    middle = layer(tmp_path / "middle", passwd=PASSWD)
    lower = layer(tmp_path / "lower", passwd="web:x:1:1:web:/:/bin/sh\n", group="wrong:x:9:web\n")
    found = layer_users.resolve(overlay(upper, middle, lower), "web")
    assert found is not None
    assert (found.uid, found.gid, found.groups, found.home) == (33, 44, (44, 50), "/srv")


def test_users_are_resolved_in_a_single_layer_that_is_a_bind_mount(tmp_path: Path) -> None:
    found = layer_users.resolve((Mount("bind", layer(tmp_path / "only", passwd=PASSWD)),), "web:5", ("6",))
    assert found is not None
    assert (found.uid, found.gid, found.groups) == (33, 5, (5, 6))


def test_image_without_layers_accepts_only_numeric_users() -> None:
    found = layer_users.resolve((), "7:8")
    assert found is not None
    assert (found.uid, found.gid) == (7, 8)
    with pytest.raises(InvalidParameter, match="unable to find user web"):
        layer_users.resolve((), "web")


def test_symlink_is_not_followed_into_other_layers(tmp_path: Path) -> None:
    upper = Path(layer(tmp_path / "upper"))
    (upper / "etc" / "passwd").symlink_to("/usr/passwd")
    assert layer_users.resolve(overlay(str(upper), layer(tmp_path / "lower", passwd=PASSWD)), "web") is None
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "etc").symlink_to("usr/etc")
    assert layer_users.resolve(overlay(str(linked)), "web") is None


def test_users_are_not_resolved_in_other_mount_types_or_in_several_bind_mounts() -> None:
    assert layer_users.resolve((Mount("erofs", "/dev/null"),), "web") is None
    assert layer_users.resolve((Mount("bind", "/a"), Mount("bind", "/b")), "web") is None
