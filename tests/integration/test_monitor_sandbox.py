"""A monitor changes mounts and namespaces only in its own namespaces, not on the host.

Each test is a script in a mount namespace that represents the host. A fork of the script builds the sandbox.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

_HOST = """
import os, sys
from orlop_sdk import linux
from orlop_engine.processes import runs
from orlop_sdk import mountinfo
from orlop_monitor import sandbox
from orlop_monitor.protocol import Launch
from orlop_sdk import Mount

top = sys.argv[1]
linux.unshare(linux.CLONE_NEWNS)
linux.mount("", "none", "/", ["rprivate"])

def tmpfs(path, *options):
    os.makedirs(path, exist_ok=True)
    linux.mount("tmpfs", "tmpfs", path, options)

def mounted():
    return {entry.path for entry in mountinfo.read() if entry.path.startswith(top)}

def in_sandbox(check, **launch):
    "Build it in a child, and have the child check."
    os.makedirs(f"{top}/run", exist_ok=True)
    os.makedirs(f"{top}/mnt/root", exist_ok=True)
    values = dict(id="c", run_dir=f"{top}/run", root=f"{top}/mnt/root", mounts=(), network="") | launch
    pid = os.fork()
    if pid == 0:
        try:
            check(sandbox.build(Launch(**values)).network)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def _on_a_host(top: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HOST + script, str(top)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_root_file_system_of_a_sandbox_is_not_mounted_on_the_host(tmp_path: Path) -> None:
    _on_a_host(
        tmp_path,
        """
linux.mount("", "none", "/", ["rshared"])
runs.private_directory(f"{top}/mnt")
runs.private_directory(f"{top}/mnt")
assert mounted() == {f"{top}/mnt"}  # once
def check(netns):
    assert netns == -1
    assert f"{top}/mnt/root" in mounted()
    open(f"{top}/mnt/root/inside", "w").close()
in_sandbox(check, mounts=(Mount("tmpfs", "tmpfs"),))
assert mounted() == {f"{top}/mnt"}
assert os.listdir(f"{top}/mnt/root") == []
runs.release_private_directory(f"{top}/mnt")
assert mounted() == set()
""",
    )


def test_symlinks_of_the_image_do_not_lead_a_mount_out_of_the_root_file_system(tmp_path: Path) -> None:
    _on_a_host(
        tmp_path,
        """
os.makedirs(f"{top}/image/real/place")
os.makedirs(f"{top}/volume")
os.makedirs(f"{top}/outside")
open(f"{top}/volume/file", "w").close()
os.symlink("/real", f"{top}/image/absolute")
os.symlink(f"../../../../../..{top}/outside", f"{top}/image/up")
os.makedirs(f"{top}/image{top}/outside")
def check(netns):
    root = f"{top}/mnt/root"
    assert os.listdir(f"{root}/real/place") == ["file"]
    assert os.statvfs(f"{root}/real/place").f_flag & os.ST_RDONLY
    assert os.listdir(f"{root}{top}/outside") == ["file"]
    assert os.listdir(f"{top}/outside") == []
in_sandbox(check, mounts=(
    Mount("bind", f"{top}/image", ""),
    Mount("bind", f"{top}/volume", "absolute/place", ("rbind", "ro", "rprivate")),
    Mount("bind", f"{top}/volume", "up"),
))
""",
    )


def test_monitor_keeps_only_needed_file_systems_of_the_host_mounted(tmp_path: Path) -> None:
    _on_a_host(
        tmp_path,
        """
for name in ("stick", "stick/inner", "needed", "needed/below", "lower"):
    tmpfs(f"{top}/{name}")
os.mkdir(f"{top}/lower/layer")
def check(netns):
    assert mounted() == {f"{top}/needed", f"{top}/needed/below", f"{top}/lower"} | {f"{top}/mnt/root"}
in_sandbox(check, keep=(f"{top}/needed",), mounts=(Mount("bind", f"{top}/lower/layer"),))
assert f"{top}/stick/inner" in mounted()
""",
    )


def test_unmount_in_the_sandbox_unmounts_nothing_on_the_host(tmp_path: Path) -> None:
    _on_a_host(
        tmp_path,
        """
tmpfs(f"{top}/cgroup")
linux.mount("", "none", f"{top}/cgroup", ["shared"])
tmpfs(f"{top}/cgroup/unified")
tmpfs(f"{top}/shared")
linux.mount("", "none", f"{top}/shared", ["shared"])
tmpfs(f"{top}/shared/below")
everything = mounted()
def check(netns):
    assert f"{top}/cgroup/unified" not in mounted()
    assert f"{top}/cgroup" in mounted()
in_sandbox(check, detach=(f"{top}/cgroup/unified",), keep=(f"{top}/cgroup",))
assert mounted() == everything
""",
    )


def test_sandbox_has_a_new_network_namespace_with_only_loopback(tmp_path: Path) -> None:
    _on_a_host(
        tmp_path,
        """
def check(netns):
    assert os.fstat(netns).st_ino != os.stat("/proc/self/ns/net").st_ino
    assert not os.get_inheritable(netns)
    with linux.in_network_namespace(netns):
        with open("/proc/thread-self/net/dev") as file:
            assert [line.split(":")[0].strip() for line in file if ":" in line] == ["lo"]
        import socket
        with socket.create_server(("127.0.0.1", 0)) as server:  # lo is up
            socket.create_connection(server.getsockname()).close()
    path = f"/proc/self/fd/{netns}"
    assert os.fstat(sandbox._namespaces(Launch("c", "", "", (), path)).network).st_ino == os.fstat(netns).st_ino
in_sandbox(check, network="new")
""",
    )
