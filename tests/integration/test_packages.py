"""The Debian packages in a chroot with their dependencies and nothing else; wheels and the one-file client.

Commands in the chroot run in process and mount namespaces of their own, so that no process or mount outlives a test.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]
CHECKOUT = Path(__file__).parents[2]
UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
START = """
import sys, time
import msgspec
print("started", flush=True)
sys.stdin.readline()
import orlop_monitor.unpack.worker
print("imported", flush=True)
"""


def call(*command: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, env=env)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def release(package: Path, version: str, scratch: Path) -> Path:
    """Make a package with the same content but another version. Its files are in another directory."""
    tree = scratch / version
    call("dpkg-deb", "-R", package, tree)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE))
    (old,) = (tree / "usr/lib/orlop/versions").iterdir()
    for script in (old / "bin").glob("orlop*"):
        script.write_text(script.read_text().replace(old.name, version))
    old.rename(old.with_name(version))
    current = tree / "usr/lib/orlop/current"
    current.unlink()
    current.symlink_to(f"versions/{version}")
    call("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, scratch / f"{version}.deb")
    shutil.rmtree(tree)
    return scratch / f"{version}.deb"


class Chroot:
    """A minimal Debian. `sh` runs a script in it."""

    def __init__(self, root: Path, packages: Path) -> None:
        self.root = root
        fields = [
            call("dpkg-deb", "-f", each, field) for each in packages.glob("*.deb") for field in ("Depends", "Pre-Depends")
        ]
        names = sorted({each.split()[0] for field in fields for each in field.split(",") if each.strip()})
        # The mounts below the chroot are in a namespace, because pytest must not remove files through them after a kill
        mmdebstrap = ("mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(names)}", "trixie", root)
        call(*UNSHARE, "--mount-proc", *mmdebstrap)
        shutil.copytree(packages, root / "packages")

    def sh(self, script: str) -> str:
        return call(*UNSHARE, f"--mount-proc={self.root}/proc", "chroot", self.root, "sh", "-euc", script)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("packages")
    call("./dev", "package", "deb", made)
    return made


@pytest.fixture(scope="module")
def chroot(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Chroot]:
    root = tmp_path_factory.mktemp("chroot") / "root"
    yield Chroot(root, packages)
    shutil.rmtree(root)


def test_client_package_works_without_the_package_of_the_daemon(chroot: Chroot) -> None:
    output = chroot.sh("dpkg -i /packages/orlop-cli_*.deb >/dev/null; orlop --version; orlop system --help")
    assert output.startswith("Orlop version ")
    assert "adopt" not in output, "a command of the daemon's plugins"
    assert "Cannot connect" in chroot.sh("orlop ps 2>&1 || true")
    chroot.sh("dpkg -P orlop-cli; ! test -e /usr/lib/orlop-cli")


def test_packages_can_be_installed_and_purged_completely(chroot: Chroot) -> None:
    installed = chroot.sh(
        """dpkg -i /packages/*.deb >/dev/null
        orlopd --version; orlopd --validate 2>&1; orlop system --help; getent group docker
        cd /etc/systemd/system; readlink multi-user.target.wants/orlop.service sockets.target.wants/orlop.socket"""
    )
    assert "configuration OK" in installed
    assert "give-back" in installed, "a command of the daemon's plugins"
    assert "docker:x:" in installed
    assert installed.endswith("/lib/systemd/system/orlop.service\n/lib/systemd/system/orlop.socket\n")
    assert chroot.sh("find / -xdev ! -user root -path '/usr/lib/*orlop*'") == ""
    chroot.sh("mkdir -p /var/lib/orlop /etc/orlop; echo data >/var/lib/orlop/data; echo '{}' >/etc/orlop/daemon.json")
    purged = chroot.sh("dpkg -P orlop orlop-cli python3-orlop-sdk")
    assert "images, containers and volumes stay in /var/lib/orlop" in purged
    left = chroot.sh(
        """find / -xdev -name '*orlop*' ! -path '/packages/*' | sort
        cat /var/lib/orlop/data /etc/orlop/daemon.json"""
    )
    assert left == "/etc/orlop\n/var/lib/orlop\ndata\n{}\n"


def test_installed_daemon_finds_drivers_of_other_packages(chroot: Chroot) -> None:
    """The installed daemon finds a driver among the packages of Debian's python3. The driver imports the sdk's package."""
    metadata = "/usr/lib/python3/dist-packages/acme_log-1.dist-info"
    chroot.sh(
        f"""dpkg -i /packages/*.deb >/dev/null; mkdir -p {metadata} /etc/orlop
        printf 'Metadata-Version: 2.1\\nName: acme-log\\nVersion: 1\\n' >{metadata}/METADATA
        printf '[orlop.log]\\nacme = acme_log\\n' >{metadata}/entry_points.txt
        cp -r /usr/lib/orlop/current/lib/python3*/site-packages/orlop_log_none {metadata}/../acme_log
        sed -i 's/"none"/"acme"/' {metadata}/../acme_log/__init__.py
        echo '{{"log-driver": "acme"}}' >/etc/orlop/daemon.json"""
    )
    assert "configuration OK" in chroot.sh("orlopd --validate 2>&1")
    assert "acme" in chroot.sh(f"rm {metadata}/entry_points.txt; orlopd --validate 2>&1 || true")
    chroot.sh("rm -r /etc/orlop; dpkg -P orlop orlop-cli python3-orlop-sdk")


def test_upgrade_keeps_files_that_running_processes_use(chroot: Chroot, packages: Path, tmp_path: Path) -> None:
    """A process of the first version runs, like a container's monitor, while the second and third versions are installed."""
    (first,) = packages.glob("orlop_*.deb")
    for version in ("0.2", "0.3"):
        shutil.move(release(first, version, tmp_path), chroot.root / f"{version}.deb")
    (chroot.root / "start.py").write_text(START)
    output = chroot.sh(
        f"""dpkg -i /packages/{first.name} /packages/orlop-cli_*.deb >/dev/null
        mkfifo /go; exec 3<>/go
        /usr/lib/orlop/current/bin/python /start.py <&3 >/said & process=$!
        until grep -q started /said; do sleep 0.1; done
        dpkg -i /0.2.deb >/dev/null; ls /usr/lib/orlop/versions
        dpkg -i /0.3.deb >/dev/null; ls /usr/lib/orlop/versions
        echo go >&3; wait $process; cat /said
        dpkg -i /0.2.deb >/dev/null; ls /usr/lib/orlop /usr/lib/orlop/versions; orlopd --version
        dpkg -P orlop orlop-cli >/dev/null; ! test -e /usr/lib/orlop"""
    )
    old = release_name(chroot, first)
    assert output.split() == [
        *(old, "0.2"),
        *(old, "0.3"),
        *("started", "imported"),
        *("/usr/lib/orlop:", "current", "versions", "/usr/lib/orlop/versions:", "0.2"),
        *("Orlop", "version", "0.1.0"),  # the version that the code reports
    ]


def release_name(chroot: Chroot, package: Path) -> str:
    contents = call("dpkg-deb", "-c", package)
    (name,) = set(re.findall(r"\./usr/lib/orlop/versions/([^/\n]+)/$", contents, flags=re.MULTILINE))
    return name


def test_wheels_can_be_installed_from_a_directory(tmp_path: Path) -> None:
    call("./dev", "package", "wheels", tmp_path / "wheels")
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = (tmp_path / "venv/bin/pip", "-q", "--disable-pip-version-check", "install", "--no-compile", "--find-links")
    call(*pip, tmp_path / "wheels", "orlop-cli")
    assert call(tmp_path / "venv/bin/orlop", "--version").startswith("Orlop version ")
    call(*pip, tmp_path / "wheels", "orlop")
    assert call(tmp_path / "venv/bin/orlopd", "--version").startswith("Orlop version ")


def test_client_can_run_from_a_single_file(tmp_path: Path) -> None:
    call("./dev", "package", "zipapp", tmp_path)
    assert call("/usr/bin/python3", "-I", "-S", tmp_path / "orlop.pyz", "run", "--help").startswith("Usage:  orlop run ")
