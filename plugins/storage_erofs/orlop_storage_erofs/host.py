"""The requirements of the driver: mkfs.erofs, and a kernel that mounts its images."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence

from orlop_sdk import DriverError
from orlop_sdk.linux import detached_mount

__all__ = ["check_installed", "probe"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT = 20.0  # seconds
_NO_PROGRAM = (
    "cannot use storage driver erofs: mkfs.erofs is not installed; install erofs-utils 1.8 or newer (package erofs-utils of "
    "Debian, Ubuntu and Fedora), or use another storage-driver"
)
_NO_KERNEL = (
    "cannot use storage driver erofs: this kernel has no EROFS (CONFIG_EROFS_FS); install the kernel's module package, or "
    "use another storage-driver"
)


def check_installed() -> str:
    """The path of mkfs.erofs. Raises `DriverError` if the program is not installed or the kernel has no EROFS. Runs no
    program."""
    program = shutil.which("mkfs.erofs", path=_PATH)
    if program is None:
        raise DriverError(_NO_PROGRAM)
    if not _has_filesystem():
        raise DriverError(_NO_KERNEL)
    return program


def _has_filesystem() -> bool:
    with open("/proc/filesystems") as file:
        if any(line.split()[-1] == "erofs" for line in file):
            return True
    # The kernel module is not loaded yet, but mount(2) loads it if it exists
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep") as file:
            return any("/erofs.ko" in line.partition(":")[0] for line in file)
    except OSError:
        return False


def probe(command: Sequence[str], directory: str, tar: str, image: str, how: str) -> bool:
    """Make an image of an empty layer, and mount it so that no other process sees the mount. `command` writes `image`, and
    `tar` is the file to which the image refers ("" for none); `image` and `tar` are in the existing `directory`. Returns
    whether images need loop devices. `how` is "file", "loop", or "auto", which tries both in this order. Raises
    `DriverError` with the missing part."""
    source = os.path.join(directory, "probe.tar")
    with tarfile.open(source, "w"):
        pass
    with open(source, "rb") as stdin:
        try:
            done = subprocess.run(
                command, cwd=directory, stdin=stdin, capture_output=True, timeout=_TIMEOUT, check=False, env={"PATH": _PATH}
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DriverError(f"cannot use storage driver erofs: cannot run mkfs.erofs: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-400:]
        raise DriverError(
            f"cannot use storage driver erofs: mkfs.erofs failed; erofs-utils 1.8 or newer is needed, and it must support "
            f"the compression in erofs.compression: {said}"
        )
    if tar:
        os.rename(source, os.path.join(directory, tar))
    device = (f"device={os.path.join(directory, tar)}",) if tar else ()
    failures = []
    for loop in (False, True):
        if how in ("auto", "loop" if loop else "file"):
            try:
                words = ("ro", *device, *(("loop",) if loop else ()))
                os.close(detached_mount("erofs", os.path.join(directory, image), words))
                return loop
            except OSError as error:
                failures.append(f"{'with loop devices' if loop else 'as a file'}: {_reason(error)}")
    raise DriverError(
        f"cannot use storage driver erofs: this kernel does not mount its images ({'; '.join(failures)}). Use Linux 6.12 or "
        "newer with CONFIG_EROFS_FS_BACKED_BY_FILE, or load the module loop; before Linux 6.4 set erofs.mode=full"
    )


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOTBLK:
        return "not supported"
    return os.strerror(error.errno or errno.EIO).lower()
