"""The machine's two disks: a cached disk with Debian's packages, and a disk with this checkout and its virtual environment,
which is made for each run.

The kernel is Debian's for clouds. It has ext4 and NVMe built in, so it boots from the disk without an initrd. Disks are
prepared as directories and turned into file systems by mke2fs, which needs no loop device.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["base", "payload", "wheels"]

_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "iproute2", "iptables", "curl", "util-linux-extra"),
    *("python3", "python3-venv", "runc", "crun", "nftables", "libnftables1", "busybox-static", "tini"),
    *("docker-cli", "docker-registry", "openssh-client", "apparmor"),
)
# Run with the machine's root as $1. The kernel is unpacked, not installed: its scripts would make an initrd.
_CUSTOMIZE = (
    'set -e; cd "$1/boot"; export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG; '
    "apt-get -qq download $(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: //p'); "
    'dpkg -x linux-image-*.deb "$1"; rm linux-image-*.deb; '
    'chroot "$1" depmod $(ls "$1/usr/lib/modules")'
)
_UNIT = """[Unit]
Description=What the host wants done
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh {checkout}/.cache/job
StandardOutput=file:/dev/virtio-ports/output
StandardError=inherit
ExecStopPost=/bin/sh -c 'echo "$EXIT_STATUS" >/dev/virtio-ports/status; systemctl poweroff'
# What these checks start is not to end with them, and they make cgroups of their own.
KillMode=process
TasksMax=infinity
Delegate=yes
"""
_FSTAB = "/dev/vda {checkout} ext4 defaults 0 0\n"
_LEFT_OUT = (".git", ".cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".pytest_cache")
_TOOLS = (
    "mypy",
    "mypyc",
    "*__mypyc*",
    "ruff",
    "grimp",
    "ast_serialize",
    "uv",
)  # large; the machine does not need them


def _file_system(directory: Path, file: Path, size: str) -> None:
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(directory), str(file), size], check=True)


def _made(target: Path, make: Callable[[Path], None]) -> Path:
    """The directory `target`. If it does not exist, it is created atomically, with the content that `make` writes."""
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as name:
            work = Path(name, "it")
            work.mkdir()
            make(work)
            work.rename(target)
        for old in target.parent.glob(target.name.rpartition("-")[0] + "-*"):
            if old != target:
                shutil.rmtree(old)
    return target


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def base(cache: Path, checkout: Path) -> Path:
    """A directory with `disk` and `vmlinuz`: Debian in the release of this host."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    unit = _UNIT.format(checkout=checkout)
    key = hashlib.sha256("\0".join([release, *_PACKAGES, _CUSTOMIZE, unit, _FSTAB]).encode()).hexdigest()[:16]

    def make(work: Path) -> None:
        root = work / "root"
        hook = "--customize-hook=" + _CUSTOMIZE
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(_PACKAGES)}", hook, release, str(root)]
        subprocess.run(argv, check=True)
        shutil.copy(next((root / "boot").glob("vmlinuz-*")), work / "vmlinuz")
        _write(root / "etc/systemd/system/job.service", unit)
        _write(root / "etc/fstab", _FSTAB.format(checkout=checkout))
        _write(root / "etc/hostname", "vm\n")
        _write(root / "etc/hosts", "127.0.0.1 localhost vm\n::1 localhost\n")
        (root / checkout.relative_to("/")).mkdir(parents=True)
        wants = root / "etc/systemd/system/multi-user.target.wants"
        (wants / "job.service").symlink_to("/etc/systemd/system/job.service")
        _file_system(root, work / "disk", "4G")
        shutil.rmtree(root)

    cache.mkdir(parents=True, exist_ok=True)
    return _made(cache / f"base-{key}", make)


def wheels(cache: Path, checkout: Path) -> Path:
    """A directory with the packages that `./dev install` needs, because the machine has no network."""
    pins = checkout / "packaging" / "install.txt"
    key = hashlib.sha256(pins.read_bytes()).hexdigest()[:16]

    def make(work: Path) -> None:
        download = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--only-binary", ":all:"]
        subprocess.run([*download, "--require-hashes", "-r", str(pins), "-d", str(work)], check=True)

    return _made(cache / f"wheels-{key}", make)


def payload(work: Path, checkout: Path, wheelhouse: Path, job: str) -> Path:
    """A disk with the checkout as it is now, at the same path: the virtual environment contains absolute paths."""
    root = work / "payload"
    excluded = [f"--exclude=./{name}" for name in _LEFT_OUT]
    excluded += [f"--exclude=./.venv/lib/*/site-packages/{name}" for name in _TOOLS]
    root.mkdir()
    with subprocess.Popen(["tar", "-cC", str(checkout), *excluded, "."], stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-xC", str(root)], stdin=packing.stdout, check=True)
    if packing.returncode > 1:  # 1 means that a file changed while it was read
        raise RuntimeError("cannot pack the checkout")
    shutil.copytree(wheelhouse, root / ".cache/wheels")
    _write(root / ".cache/job", job)
    disk = work / "payload.disk"
    _file_system(root, disk, "1G")
    shutil.rmtree(root)
    return disk
