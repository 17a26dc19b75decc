"""The demo's steps. Everything is in one temporary directory and is removed at the end, even after failures."""

from __future__ import annotations

import glob
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

from tests import registry

from . import images

BIN = os.path.join(sys.prefix, "bin")
# Not more than root may set on this machine: in some sandboxes, root lacks CAP_SYS_RESOURCE.
FILES = min(64000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
CONFIG = {
    "log-driver": "json-file",
    "log-opts": {"max-size": "10m", "max-file": "3"},
    "storage-driver": "overlay2",
    "live-restore": True,
    "default-ulimits": {"nofile": {"Name": "nofile", "Hard": FILES, "Soft": FILES}},
    "features": {"buildkit": True},
}


def say(text: str) -> None:
    print(f"\n\033[1m== {text}\033[0m", flush=True)


class Daemon:
    """The orlopd that the demo starts."""

    def __init__(self, top: str) -> None:
        self.top = top
        self.host = f"unix://{top}/orlop.sock"
        self.config = f"{top}/daemon.json"
        self.process: subprocess.Popen[bytes] | None = None
        with open(self.config, "w") as file:
            json.dump(CONFIG, file, indent=2)

    @property
    def command(self) -> list[str]:
        roots = ["--data-root", f"{self.top}/data", "--exec-root", f"{self.top}/exec"]
        return [f"{BIN}/orlopd", "--config-file", self.config, *roots, "-H", self.host]

    def start(self) -> None:
        with open(f"{self.top}/orlopd.log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while subprocess.run([f"{BIN}/orlop", "-H", self.host, "version"], capture_output=True).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(f"{self.top}/orlopd.log") as log:
                    sys.exit(f"orlopd did not start:\n{log.read()}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)
        self.process = None

    def orlop(self, *words: str, check: bool = True, quiet: bool = False) -> str:
        """Run the client, showing the command and its output."""
        if not quiet:
            print(f"\033[36m$ orlop {shlex.join(words)}\033[0m", flush=True)
        live = words[0] == "pull" and sys.stdout.isatty()
        done = subprocess.run(
            [f"{BIN}/orlop", "-H", self.host, *words],
            stdout=None if live else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output = done.stdout or ""
        if output and not quiet:
            print(output.rstrip(), flush=True)
        if check and done.returncode:
            sys.exit(f"orlop {shlex.join(words)} failed with {done.returncode}: {output}")
        return output.strip()


def fetch(port: int, path: str = "/") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


@contextmanager
def visitor(port: int) -> Iterator[list[str]]:
    """Fetch the page again and again in the background. Failures are added to the list."""
    failures: list[str] = []
    count, stop = [0], threading.Event()

    def visit() -> None:
        while not stop.is_set():
            try:
                fetch(port, f"/?visit={count[0]}")
                count[0] += 1
            except OSError as error:
                failures.append(f"visit {count[0]}: {error}")
            time.sleep(0.01)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        yield failures
    finally:
        stop.set()
        thread.join()
        print(f"the page was fetched {count[0]} times; {len(failures)} fetches failed", flush=True)


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orlop-demo-") as top:
        before = host_objects(top)
        daemon = Daemon(top)
        try:
            steps(daemon)
        finally:
            if daemon.process is not None:
                for container in daemon.orlop("ps", "-aq", check=False, quiet=True).split():
                    daemon.orlop("rm", "-f", container, check=False, quiet=True)
                daemon.stop()
            left = sorted(host_objects(top) - before)
    say("Objects that the demo has left on the machine")
    print("\n".join(left) if left else f"none, except the virtual environment ({time.monotonic() - began:.1f} s in total)")
    sys.exit(1 if left else 0)


def steps(daemon: Daemon) -> None:
    say("Images from Debian's packages (the first time takes a minute)")
    small, web = images.busybox_image(), images.nginx_image()
    print(f"busybox {small.id[:19]}, nginx {web.id[:19]}")
    with registry.running() as hub:
        registry.push(hub.host, "busybox", "latest", small)
        registry.push(hub.host, "nginx", "latest", web)
        say(f"A registry on {hub.host} has the images; the daemon starts with this daemon.json")
        print(json.dumps(CONFIG, indent=2))
        daemon.start()
        tour(daemon, hub.host)


def tour(daemon: Daemon, hub: str) -> None:
    say("Pull")
    daemon.orlop("pull", f"{hub}/busybox")
    daemon.orlop("pull", f"{hub}/nginx")
    daemon.orlop("images")
    say("Run nginx with a published port, and fetch its page")
    daemon.orlop("run", "-d", "--name", "web", "-p", "80", f"{hub}/nginx")
    port = int(daemon.orlop("port", "web", "80").splitlines()[0].rpartition(":")[2])
    print(fetch(port).rstrip())
    daemon.orlop("ps")
    daemon.orlop("exec", "web", "nginx", "-v")
    daemon.orlop("run", "--rm", f"{hub}/busybox", "echo", "hello from busybox")
    say("Stop and start the daemon, then kill and start it. Meanwhile, a thread fetches the page")
    pid = daemon.orlop("inspect", "--format", "{{.State.Pid}}", "web", quiet=True)
    with visitor(port) as failures:
        for how in (signal.SIGTERM, signal.SIGKILL):
            daemon.stop(how)
            print(f"orlopd has ended ({how.name}); the container's process {pid} is alive: {os.path.exists(f'/proc/{pid}')}")
            time.sleep(0.5)
            daemon.start()
    if failures:
        sys.exit("\n".join(failures))
    same = daemon.orlop("inspect", "--format", "{{.State.Pid}}", "web", quiet=True)
    print(f"the container's process before and after these restarts: {pid}, {same}")
    check_log(daemon)
    say("Stop, remove, info")
    daemon.orlop("stop", "web")
    daemon.orlop("ps", "-a")
    daemon.orlop("rm", "web")
    daemon.orlop("info")


def check_log(daemon: Daemon) -> None:
    daemon.orlop("logs", "--tail", "2", "web")
    lines = daemon.orlop("logs", "web", quiet=True).splitlines()
    visits = [int(line.split("visit=")[1].split()[0]) for line in lines if "visit=" in line]
    gaps = [n for n, m in pairwise(visits) if m != n + 1]
    print(f"{len(visits)} visits in the log, {len(gaps)} gaps")
    if gaps or not visits:
        sys.exit(f"the log has gaps after visits {gaps[:5]}")


def host_objects(top: str) -> set[str]:
    """Objects that an engine could leave on the host: processes and mounts of the engine, links, firewall tables,
    cgroups."""
    found = {f"network link {name}" for name in os.listdir("/sys/class/net")}
    found |= {f"cgroup {path}" for path in glob.glob("/sys/fs/cgroup/*/") + glob.glob("/sys/fs/cgroup/*/*/")}
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True).stdout
    found |= {f"nftables {line}" for line in tables.splitlines()}
    with open("/proc/self/mountinfo") as file:
        found |= {f"mount {line.split()[4]}" for line in file if top in line}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if top in command:
            found.add(f"process {pid}: {command}")
    return found


if __name__ == "__main__":
    main()
