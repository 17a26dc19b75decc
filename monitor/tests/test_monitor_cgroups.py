"""Finding the cgroups of a container, counting their OOM kills, and killing their processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_sdk import cgroups, mountinfo

V1 = mountinfo.parse(
    b"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    b"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    b"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2 = mountinfo.parse(b"41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")


def test_selection_contains_the_cgroup_v1_directories_of_all_controllers() -> None:
    theirs = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n2:name=systemd:/docker/abc\n0::/\n"
    ours = "4:cpu,cpuacct:/\n3:memory:/x\n2:name=systemd:/\n0::/\n"
    assert cgroups.select(theirs, ours, V1, "abc") == (
        "/sys/fs/cgroup/cpu,cpuacct/docker/abc",
        "/sys/fs/cgroup/memory/docker/abc",
        "/sys/fs/cgroup/systemd/docker/abc",
    )


def test_selected_cgroup_v2_directory_is_the_containers_and_not_a_cgroup_below() -> None:
    theirs = "0::/system.slice/docker-abc.scope/init.scope\n"
    assert cgroups.select(theirs, "0::/system.slice/orlop.service\n", V2, "abc") == (
        "/sys/fs/cgroup/system.slice/docker-abc.scope",
    )


@pytest.mark.parametrize("theirs", ["/", "/user", "/user/orlop"])
def test_cgroup_of_the_caller_or_above_is_never_selected(theirs: str) -> None:
    assert cgroups.select(f"0::{theirs}\n", "0::/user/orlop\n", V2, "abc") == ()


def test_cgroup_whose_name_is_a_prefix_of_the_callers_cgroup_can_be_selected() -> None:
    """The caller's cgroup is /user/orlop2. The cgroup /user/orlop is not above it, so it may be selected."""
    assert cgroups.select("0::/user/orlop\n", "0::/user/orlop2\n", V2, "abc") == ("/sys/fs/cgroup/user/orlop",)


def test_cgroup_paths_are_relative_to_the_root_of_the_cgroup_mount() -> None:
    part = mountinfo.parse(b"41 31 0:38 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert cgroups.select("0::/outer/c/abc\n", "0::/outer\n", part, "abc") == ("/sys/fs/cgroup/c/abc",)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("/docker/abc", "/docker/abc"),
        ("docker/abc", "/docker/abc"),
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:docker:abc", "/a.slice/a-b.slice/a-b-c.slice/docker-abc.scope"),
        (":docker:abc", "/system.slice/docker-abc.scope"),
        ("-.slice:docker:abc", "/docker-abc.scope"),
    ],
)
def test_cgroups_path_of_a_spec_is_normalized(spec: str, path: str) -> None:
    assert cgroups.relative(spec) == path


def test_oom_kills_are_counted_on_both_cgroup_versions(tmp_path: Path) -> None:
    v1, v2 = tmp_path / "v1", tmp_path / "v2"
    for directory, name, text in (
        (v1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (v2, "memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"),
    ):
        directory.mkdir()
        (directory / name).write_text(text)
    assert cgroups.oom_kills(cgroups.oom_file([str(v1)])) == 2
    assert cgroups.oom_kills(cgroups.oom_file([str(tmp_path), str(v2)])) == 3
    assert cgroups.oom_kills(cgroups.oom_file([])) == 0


def test_container_without_memory_and_without_oom_killer_is_reported_as_stopped(tmp_path: Path) -> None:
    file = tmp_path / "memory.oom_control"
    for text, stopped in (
        ("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n", True),
        ("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", False),
        ("oom_kill_disable 0\nunder_oom 1\noom_kill 0\n", False),  # the OOM killer is enabled and will kill a process
    ):
        file.write_text(text)
        assert cgroups.oom_stopped(str(file)) is stopped
    assert not cgroups.oom_stopped("")


def test_kill_of_a_missing_cgroup_succeeds(tmp_path: Path) -> None:
    assert cgroups.kill([str(tmp_path / "gone")])
