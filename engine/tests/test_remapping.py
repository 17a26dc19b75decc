"""`userns-remap`: the ID mapping of a user, and options that containers with a user namespace cannot have."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from orlop_engine.config import Config, remapping
from orlop_engine.config_check import problems
from orlop_engine.containers import user_namespaces
from orlop_engine.types.containers import HostConfig
from orlop_sdk import InvalidParameter
from orlop_sdk.idmaps import IdMap, IdRange

IDS = IdMap((IdRange(0, 1000, 10),), (IdRange(0, 2000, 20),))


@pytest.fixture
def etc(tmp_path: Path) -> str:
    (tmp_path / "passwd").write_text("root:x:0:0::/:/bin/sh\nme:x:7:8::/:/bin/sh\ndockremap:x:9:9::/:/bin/sh\n")
    (tmp_path / "group").write_text("me:x:8:\nothers:x:10:\n")
    (tmp_path / "subuid").write_text("# ranges\nme:5000:20\nroot:1:1\nme:1000:10\n9:70:3\nbroken\n")
    (tmp_path / "subgid").write_text("me:2000:20\nothers:3000:30\ndockremap:70:4\n")
    return str(tmp_path)


@pytest.mark.parametrize("text", ["me", "7", "me:me", "me:8"])
def test_subordinate_id_ranges_are_mapped_in_the_order_of_their_first_ids(etc: str, text: str) -> None:
    ids = remapping.id_map(text, etc)
    assert ids is not None
    assert ids.uids == (IdRange(0, 1000, 10), IdRange(10, 5000, 20))
    assert (ids.gids, ids.root) == ((IdRange(0, 2000, 20),), (1000, 2000))


def test_userns_remap_accepts_a_group_and_default_and_host_and_an_empty_value(etc: str) -> None:
    ids = remapping.id_map("me:others", etc)
    assert ids is not None and ids.gids == (IdRange(0, 3000, 30),)
    ids = remapping.id_map("default", etc)
    assert ids is not None and ids.root == (70, 70), "a range may be of a user's number"
    assert remapping.id_map("", etc) is None and remapping.id_map("host", etc) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("me:", "it must be default, USER or USER:GROUP"),
        (":me", "it must be default, USER or USER:GROUP"),
        ("a:b:c", "it must be default, USER or USER:GROUP"),
        ("nobody", "there is no user nobody"),
        ("me:nogroup", "there is no group nogroup"),
        ("root", "subgid has no range of root. Add one: usermod --add-subgids FIRST-LAST root"),
    ],
)
def test_error_names_the_missing_user_or_group_or_range(etc: str, text: str, sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        remapping.id_map(text, etc)


def test_invalid_ranges_and_more_than_340_ranges_are_refused(etc: str) -> None:
    Path(etc, "subuid").write_text("me:many:1\n")
    with pytest.raises(InvalidParameter, match="invalid range of me"):
        remapping.id_map("me", etc)
    Path(etc, "subuid").write_text("".join(f"me:{1000 * n}:1\n" for n in range(341)))
    with pytest.raises(InvalidParameter, match="more than 340 ranges"):
        remapping.id_map("me", etc)
    Path(etc, "passwd").write_text("me:x:7:8::/:/bin/sh\n")
    with pytest.raises(InvalidParameter, match=r"there is no user dockremap\. Create it: useradd"):
        remapping.id_map("default", etc)


def test_userns_remap_requires_an_exec_root_that_other_users_can_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as top:  # `tmp_path` is not used, because only its owner may enter it
        os.chmod(top, 0o711)
        middle, place = Path(top, "run"), Path(top, "run", "orlop")
        assert remapping.closed_directory(str(place)) == ""
        place.mkdir(parents=True)
        middle.chmod(0o700)
        assert remapping.closed_directory(str(place)) == str(middle)
        monkeypatch.setattr(remapping, "id_map", lambda text: IDS)
        found = [
            problem for problem in problems(Config(userns_remap="me", exec_root=str(place))) if "userns" in problem.text
        ]
        assert [problem.keys for problem in found] == [("userns-remap",)] and str(middle) in found[0].text


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        (HostConfig(privileged=True), "privileged mode is incompatible with user namespaces"),
        (HostConfig(network_mode="host"), "cannot share the host's network namespace"),
        (HostConfig(pid_mode="host"), "cannot share the host PID namespace"),
        (HostConfig(ipc_mode="host"), "cannot share the host's IPC namespace"),
    ],
)
def test_options_that_exclude_user_namespaces_are_refused(host: HostConfig, sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        user_namespaces.check(IDS, host)
    user_namespaces.check(None, host)
    host.userns_mode = "host"
    user_namespaces.check(IDS, host)


def test_container_with_userns_mode_host_has_no_id_mapping() -> None:
    assert user_namespaces.ids_of(IDS, HostConfig()) is IDS
    assert user_namespaces.ids_of(IDS, HostConfig(userns_mode="host")) is None
