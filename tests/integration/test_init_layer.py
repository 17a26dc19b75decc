"""The init layer in a container's root file system, as shown by `cp`, `export`, `diff`, `commit`, and inside the
container."""

import io
import os
import tarfile

import pytest
from tests.integration.engine import BUSYBOX

pytestmark = pytest.mark.root

FILES = ["/.dockerenv", "/dev/console", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]
DIRECTORIES = ["/dev", "/dev/pts", "/dev/shm", "/proc", "/sys"]


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {f"/{member.name}": member for member in tar}


@pytest.fixture
def created(engine, name):
    engine.ok("create", "--name", name, BUSYBOX, "sh", "-c", "cat /etc/mtab; cat /etc/hosts; sleep 1000")
    return name


def test_created_container_has_all_paths_of_the_init_layer(engine, created):
    for path in FILES + DIRECTORIES:
        (member, *_) = members(engine.docker("cp", f"{created}:{path}", "-", check=0).stdout).values()
        assert (member.isdir(), member.mode, member.size) == (path in DIRECTORIES, 0o755, 0)
    (link,) = members(engine.docker("cp", f"{created}:/etc/mtab", "-", check=0).stdout).values()
    assert (link.linkname, link.issym()) == ("/proc/mounts", True)
    exported = members(engine.docker("export", created, check=0).stdout)
    assert exported.keys() >= {*FILES, *DIRECTORIES, "/etc/mtab"}


def test_diff_shows_paths_of_the_init_layer_only_after_a_change(engine, created, tmp_path):
    assert engine.ok("diff", created) == ""
    engine.ok("start", created)
    assert engine.ok("diff", created) == ""
    (tmp_path / "hosts").write_text("1.2.3.4 copied\n")
    engine.ok("stop", "-t", "0", created)
    fresh = f"{created}-fresh"
    engine.ok("create", "--name", fresh, BUSYBOX, "true")
    engine.ok("cp", str(tmp_path / "hosts"), f"{fresh}:/etc/hosts")
    assert engine.ok("diff", fresh).splitlines() == ["C /etc", "C /etc/hosts"]
    assert engine.docker("cp", f"{fresh}:/etc/hosts", "-", check=0).stdout.count(b"1.2.3.4 copied") == 1
    engine.ok("commit", fresh, f"of-{created}")
    engine.ok("create", "--name", f"{created}-again", f"of-{created}", "true")
    again = members(engine.docker("export", f"{created}-again", check=0).stdout)
    assert again["/etc/hosts"].size == 0  # the new image's own init layer covers the committed file, as in dockerd
    engine.ok("rm", fresh, f"{created}-again")
    engine.ok("rmi", f"of-{created}")


def test_etc_mtab_of_a_running_container_is_a_link_to_proc_mounts(engine, created):
    engine.ok("start", created)
    assert engine.ok("exec", created, "sh", "-c", "cat /etc/mtab | head -1").startswith("overlay / ")
    assert engine.ok("exec", created, "readlink", "/etc/mtab") == "/proc/mounts"


def test_init_layer_is_removed_with_its_image(engine, created):
    before = set(os.listdir(engine.data_root / "overlay2"))
    engine.ok("import", "-", f"own-{created}", stdin=engine.docker("export", created, check=0).stdout)
    engine.ok("create", "--name", f"{created}-own", f"own-{created}", "true")
    engine.ok("rmi", "-f", f"own-{created}")
    engine.ok("start", f"{created}-own")
    engine.ok("rm", "-f", f"{created}-own")
    assert set(os.listdir(engine.data_root / "overlay2")) == before
    assert engine.orlop("system", "check").code == 0
