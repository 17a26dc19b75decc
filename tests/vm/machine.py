"""One run of the virtual machine: boot it, show the output of its job, and wait until it powers off.

Owns the emulator's process and a directory for its disks and ports; both are gone when `run` returns. The disks are
snapshots: nothing that the machine writes is kept.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

__all__ = ["run"]

_APPEND = (
    "root=/dev/nvme0n1 rootwait rw console=ttyS0 quiet mitigations=off panic=-1 "
    "systemd.show_status=no systemd.mask=serial-getty@ttyS0.service"
)


def _show(path: Path, stop: threading.Event) -> None:
    """Copy the machine's output to our standard output as it is written."""
    with path.open("rb") as file:
        while True:
            ended = stop.is_set()
            while data := file.read(65536):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            if ended:
                return
            stop.wait(0.2)


def _port(name: str, path: Path) -> tuple[str, ...]:
    return ("-chardev", f"file,id={name},path={path}", "-device", f"virtserialport,chardev={name},name={name}")


def _drive(name: str, path: Path, device: str) -> tuple[str, ...]:
    return ("-drive", f"file={path},if=none,id={name},format=raw", "-device", f"{device},drive={name}")


def run(base: Path, cache: Path, payload: Callable[[Path], Path], seconds: float, kvm: bool) -> int:
    """Run the machine. Returns the exit code of the payload's job; 125 if the machine returned no exit code."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache) as name:
        work = Path(name)
        disk = payload(work)
        output, status, console = work / "output", work / "status", work / "console"
        output.touch()
        argv = [
            *("qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "4096", "-snapshot"),
            *("-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=1024"),
            *("-nodefaults", "-no-reboot", "-display", "none", "-serial", f"file:{console}"),
            *("-kernel", str(base / "vmlinuz"), "-append", _APPEND),
            # The disks are of two kinds, because the names of two equal disks would depend on the order of detection
            *_drive("root", base / "disk", "nvme,serial=root"),
            *_drive("work", disk, "virtio-blk-pci"),
            *("-device", "virtio-rng-pci", "-device", "virtio-serial"),
            *_port("output", output),
            *_port("status", status),
            # A link with a route, connected only to the emulator
            *("-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"),
        ]
        stop = threading.Event()
        showing = threading.Thread(target=_show, args=(output, stop))
        showing.start()
        try:
            subprocess.run(argv, check=False, timeout=seconds, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            print(f"dev: the machine did not end within {seconds / 60:g} minutes", file=sys.stderr)
        finally:
            stop.set()
            showing.join()
        text = status.read_text().strip() if status.exists() else ""
        if text.isdigit():
            return int(text)
        kept = shutil.copy(console, cache / "console.log") if console.exists() else "(none)"
        print(f"dev: the machine gave no result; its console: {kept}", file=sys.stderr)
        return 125
