"""Every program that Orlop starts inherits only the descriptors and environment variables that it may have. Also checks that
no process of Orlop listens in the abstract namespace, where no directory's mode protects a socket.

The daemon of these tests is started with inheritable open descriptors and with an environment full of secrets and of
variables that change how programs behave. Runtimes are wrapped by a program that records what it inherited.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.integration.engine import BUSYBOX, Engine, until
from tests.registry import busybox, docker_archive, image, layer
from tests.soak.census import descendants

from orlop_engine.commands import run_supervised
from orlop_net_bridge._nft import _Program
from orlop_sdk import Command

pytestmark = pytest.mark.root

SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOSTILE = {
    "LD_LIBRARY_PATH": "/nonexistent",
    "LD_PROFILE_OUTPUT": "/nonexistent",
    "GCONV_PATH": "/nonexistent",
    "BASH_ENV": "/nonexistent",
    "ENV": "/nonexistent",
    "GODEBUG": "madvdontneed=1",
    "PYTHONSTARTUP": "/nonexistent",
    "NOTIFY_SOCKET": "/nonexistent/notify",
    "LISTEN_FDS": "3",
    "LISTEN_PID": "1",
    "LISTEN_FDNAMES": "a:b:c",
    "DOCKER_HOST": "tcp://192.0.2.1:1",
    "DOCKER_CONFIG": "/nonexistent",
    "HTTP_PROXY": "http://user:secret@192.0.2.1:1",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "XDG_RUNTIME_DIR": "/nonexistent",
    "_LIBCONTAINER_LOGLEVEL": "5",
}

_WITNESS = """#!{python} -IS
import json, os, sys
fds = {{}}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink("/proc/self/fd/" + name)
    except OSError:
        pass  # the one that listed them
env = dict(line.split("=", 1) for line in open("/proc/self/environ").read().split("\\0") if line)
with open("{out}", "a") as file:
    file.write(json.dumps({{"argv": sys.argv[1:], "fds": fds, "env": env}}) + "\\n")
os.execve("{real}", ["{real}", *sys.argv[1:]], env)
"""


def witness(path: Path, real: str, out: Path) -> str:
    """A wrapper that records its descriptors and its environment, and then executes the real program."""
    path.write_text(_WITNESS.format(python=os.path.realpath(sys.executable), out=out, real=real))
    path.chmod(0o755)
    return str(path)


class Exposed(Engine):
    """A daemon started with descriptors and an environment that must not be passed on."""

    @property
    def command(self) -> list[str]:
        script = 'ulimit -Sn 1000; exec 3</etc/passwd 7</etc/group 9>>/dev/zero; exec "$@"'
        return ["/bin/sh", "-c", script, "sh", *super().command]

    def seen(self) -> list[dict[str, Any]]:
        path = self.home / "seen"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def exposed() -> Iterator[Exposed]:
    engine = Exposed()
    real = {name: shutil.which(name) for name in ("runc", "crun")}
    runtimes = {
        f"seen-{name}": {"path": witness(engine.home / f"seen-{name}", path, engine.home / "seen")}
        for name, path in real.items()
        if path
    }
    engine.configure({"runtimes": runtimes, "shutdown-timeout": 2, "default-runtime": "seen-runc"})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in HOSTILE.items():
            patch.setenv(name, value)
        engine.start()
    try:
        engine.load()
        yield engine
    finally:
        left = engine.close()
    assert not left


def _environment(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(word.split("=", 1) for word in words if word)


def _descriptors(pid: int) -> dict[int, str]:
    """The descriptors of a process; none if the process has ended."""
    found: dict[int, str] = {}
    names: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        names = os.listdir(f"/proc/{pid}/fd")
    for name in names:
        with contextlib.suppress(OSError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def _strange(pid: int, *allowed: str) -> list[str]:
    """The descriptors of a process that match none of the allowed patterns."""
    patterns = ("/dev/null", *allowed)
    return [target for target in _descriptors(pid).values() if not any(re.fullmatch(one, target) for one in patterns)]


def _use(engine: Exposed, runtime: str) -> None:
    """Run every operation that starts a runtime."""
    name = runtime.removeprefix("seen-")
    engine.ok("run", "-di", "--runtime", runtime, "--name", f"{name}1", "-e", "MINE=1", "busybox", "sleep", "600")
    engine.ok("run", "-dit", "--runtime", runtime, "--name", f"{name}2", "busybox", "sleep", "600")
    assert engine.ok("exec", "-i", f"{name}1", "cat", stdin="echoed") == "echoed"
    engine.ok("exec", "-d", f"{name}1", "sleep", "500")
    engine.ok("exec", "-dt", f"{name}2", "sleep", "500")
    engine.ok("pause", f"{name}1")
    engine.ok("unpause", f"{name}1")
    assert "sleep 600" in engine.ok("top", f"{name}1")
    engine.docker("run", "--runtime", runtime, "--name", f"{name}3", "busybox", "no-such-thing")
    engine.ok("info")


@pytest.mark.parametrize("runtime", ["seen-runc", "seen-crun"])
def test_runtimes_inherit_three_descriptors_and_only_the_variable_path(exposed: Exposed, runtime: str) -> None:
    _use(exposed, runtime)
    name = runtime.removeprefix("seen-")
    exposed.ok("rm", "-f", f"{name}1", f"{name}2", f"{name}3")
    until(lambda: os.listdir(exposed.exec_root / "run") == [], "all is cleaned up")
    calls = [
        call for call in exposed.seen() if f"runtime-{runtime}" in " ".join(call["argv"]) or "--version" in call["argv"]
    ]
    verbs = {word for call in calls for word in call["argv"]}
    assert {"run", "exec", "pause", "resume", "ps", "delete", "--version"} <= verbs
    for call in calls:
        assert call["env"] == {"PATH": SEARCHED}, call
        assert set(call["fds"]) == {"0", "1", "2"}, call
        assert all(
            re.fullmatch(r"/dev/null|pipe:\[\d+\]|/memfd:input \(deleted\)", target) for target in call["fds"].values()
        )


def test_containers_inherit_only_their_streams_and_their_own_environment(exposed: Exposed) -> None:
    engine = exposed
    own = {"PATH": SEARCHED, "HOME": "/root"}
    engine.ok("run", "-d", "--name", "plain", "--hostname", "host1", "-e", "MINE=1", "busybox", "sleep", "600")
    engine.ok("run", "-dit", "--name", "tty", "--hostname", "host2", "busybox", "sleep", "600")
    plain, tty = (int(engine.inspect(name)["State"]["Pid"]) for name in ("plain", "tty"))
    assert _environment(plain) == {**own, "HOSTNAME": "host1", "MINE": "1"}
    assert _environment(tty) == {**own, "HOSTNAME": "host2", "TERM": "xterm"}
    assert sorted(_descriptors(plain)) == [0, 1, 2] and not _strange(plain, r"pipe:\[\d+\]")
    assert set(_descriptors(tty).values()) == {"/dev/pts/0"} and sorted(_descriptors(tty)) == [0, 1, 2]
    for name, extra, streams in (
        ("plain", {"HOSTNAME": "host1", "MINE": "1"}, "/dev/null"),
        ("tty", {"HOSTNAME": "host2", "TERM": "xterm"}, "/dev/pts/1"),
    ):
        made = engine.api(
            "POST", f"/containers/{name}/exec", {"Cmd": ["sleep", "500"], "Tty": name == "tty", "Env": ["A=b"]}
        )[1]
        assert engine.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})[0] == 200
        pid = engine.api("GET", f"/exec/{made['Id']}/json")[1]["Pid"]
        until(lambda pid=pid: "A" in _environment(pid), "the command replaces the runtime's process")
        assert _environment(pid) == {**own, **extra, "A": "b"}
        assert sorted(_descriptors(pid)) == [0, 1, 2] and set(_descriptors(pid).values()) == {streams}
    engine.ok("rm", "-f", "plain", "tty")


def test_containers_get_the_original_limits_of_the_daemon(exposed: Exposed) -> None:
    """The limits inside containers are the daemon's original ones. Only monitors raise their own limit of descriptors."""
    exposed.ok("run", "-d", "--name", "limited", "busybox", "sleep", "600")
    exposed.ok("exec", "-d", "limited", "sleep", "500")
    inside = int(exposed.inspect("limited")["State"]["Pid"])
    seen = exposed.ok("exec", "limited", "cat", "/proc/self/limits")
    assert seen == Path(f"/proc/{exposed.zygote}/limits").read_text().strip()
    assert seen == Path(f"/proc/{inside}/limits").read_text().strip()
    (files,) = [line.split()[3:5] for line in seen.splitlines() if line.startswith("Max open files")]
    held = resource.prlimit(exposed.monitor("limited"), resource.RLIMIT_NOFILE)
    assert files == ["1000", str(held[1])] and held[0] > 1000
    first = exposed.zygote
    os.kill(first, signal.SIGKILL)
    until(lambda: exposed.children("orlop-zygote") not in ([], [first]), "another zygote")
    assert exposed.ok("run", "--rm", "busybox", "cat", "/proc/self/limits") == seen
    scores = [Path(f"/proc/{pid}/oom_score_adj").read_text() for pid in (exposed.zygote, inside)]
    assert scores[0] == scores[1]
    exposed.ok("rm", "-f", "limited")


def test_zygote_and_monitors_hold_only_needed_descriptors(exposed: Exposed) -> None:
    engine = exposed
    engine.ok("run", "-di", "--name", "held", "-p", "127.0.0.1::80", "busybox", "sleep", "600")
    attached = engine.background("attach", "held")
    until(lambda: "attach" in engine.events(container="held"), "attached")
    zygote, monitor = engine.zygote, engine.monitor("held")
    for pid in (zygote, monitor):
        environment = _environment(pid)
        assert environment == {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    log, home = f"{engine.exec_root}/monitors.log", str(engine.data_root)
    common = (re.escape(log), r"socket:\[\d+\]", r"anon_inode:\[eventpoll\]", r"/memfd:[a-z-]+ \(deleted\)")
    assert not _strange(zygote, *common)
    own = (
        *common,
        r"pipe:\[\d+\]",
        r"net:\[\d+\]",
        r"anon_inode:(inotify|\[eventfd\]|\[pidfd\])",
        f"{re.escape(home)}/containers/.*[.]log",
    )
    assert not _strange(monitor, *own)
    assert engine.process is not None
    # Only the daemon has the API sockets and the database open
    (listening,) = _bound(engine.process.pid, engine.socket)
    for pid in (zygote, monitor):
        assert f"socket:[{listening}]" not in _descriptors(pid).values()
    engine.ok("rm", "-f", "held")
    attached.communicate(timeout=10)


def test_unpack_workers_have_access_only_to_their_layer(exposed: Exposed) -> None:
    """The worker is stopped by SIGSTOP in the middle of a layer of 60 MB, and then inspected."""
    big = docker_archive({"big:latest": image([layer({"zeros": bytes(60 << 20)}, compression="none")])})
    path = exposed.home / "big.tar"
    path.write_bytes(big)
    loading = exposed.background("load", "-i", str(path))

    def worker() -> int:
        assert exposed.process is not None
        for pid in descendants(exposed.process.pid):
            with contextlib.suppress(OSError):
                if (
                    Path(f"/proc/{pid}/comm").read_text() == "orlop-unpack\n"
                    and Path(f"/proc/{pid}/status").read_text().find("\nSeccomp:\t2") > 0
                ):
                    os.kill(pid, signal.SIGSTOP)
                    return pid
        return 0

    pid = until(worker, "a worker at work")
    try:
        assert _environment(pid) == {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        blobs = re.escape(str(exposed.data_root)) + "/.*"
        assert not _strange(
            pid, re.escape(f"{exposed.exec_root}/monitors.log"), r"(socket|pipe):\[\d+\]", "/", "/zeros", blobs
        )
        assert {*os.listdir(f"/proc/{pid}/root/")} <= {"zeros"}  # the worker's root contains nothing else
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        # chown, dac_override, fowner, fsetid, sys_admin (for trusted xattrs, behind the filter), mknod, setfcap
        assert (status["NoNewPrivs"], status["Seccomp"], status["CapEff"]) == ("1", "2", "000000008820001b")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert loading.wait(30) == 0, loading.communicate()
    exposed.ok("rmi", "big")


def test_helper_programs_of_the_daemon_inherit_only_listed_descriptors_and_variables(tmp_path: Path) -> None:
    """Tests `process.run_supervised`, which starts all programs, and nft, which runs if libnftables is missing."""
    program = witness(tmp_path / "witness", shutil.which("true") or "", tmp_path / "seen")
    answer = tmp_path / "nft"
    answer.write_text(f'#!/bin/sh\n{program}\necho "{{}}"\n')
    answer.chmod(0o755)
    inheritable = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in HOSTILE.items():
                patch.setenv(name, value)
            assert trio.run(run_supervised, Command((program,), env=(("A", "b"),))).status == 0
            assert _Program(str(answer)).read("list tables", "list tables") == {}
    finally:
        os.close(inheritable)
    ran, nft = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert ran["env"] == {"A": "b"} and set(ran["fds"]) == {"0", "1", "2"}
    assert nft["env"].pop("PWD") == "/"  # the shell itself sets this variable
    assert nft["env"] == {"PATH": SEARCHED, "LC_ALL": "C"} and set(nft["fds"]) == {"0", "1", "2"}


# --- abstract sockets -----------------------------------------------------------------------------------------------------


def _unix_sockets(pid: int) -> Iterator[tuple[str, str]]:
    """(inode, name) of the named unix sockets in the network namespace of a process."""
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8:
            yield fields[6], fields[7]


def _bound(pid: int, name: str) -> list[str]:
    """The inodes of listening sockets with this name. Accepted sockets have the same name, but another state."""
    return [line.split()[6] for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines() if _is_listener(line, name)]


def _is_listener(line: str, name: str) -> bool:
    fields = line.split()
    directory, base = os.path.split(name)
    # The socket was bound to another name and renamed; the kernel shows the former name
    return len(fields) == 8 and fields[3] == "00010000" and fields[7].startswith((name, f"{directory}/.{base}."))


def test_no_process_has_a_socket_in_the_abstract_namespace(exposed: Exposed) -> None:
    engine = exposed
    engine.ok("run", "-dit", "--name", "talks", "busybox", "sh", "-c", "while sleep 0.05; do echo word; done")
    clients = [engine.background("logs", "-f", "talks"), engine.background("attach", "--no-stdin", "talks")]
    engine.ok("exec", "-dt", "talks", "sleep", "500")
    terminal = engine.terminal("exec", "-it", "talks", "sh")
    terminal.expect("# ")
    assert engine.process is not None
    ours = [engine.process.pid, *descendants(engine.process.pid)]
    held = {target for pid in ours for target in _descriptors(pid).values()}
    inside = int(engine.inspect("talks")["State"]["Pid"])
    named = {*_unix_sockets(engine.process.pid), *_unix_sockets(inside)}
    assert [name for inode, name in named if f"socket:[{inode}]" in held], "there are sockets of ours to look at"
    assert [name for inode, name in named if name.startswith("@") and f"socket:[{inode}]" in held] == []
    assert list(_unix_sockets(inside)) == []
    engine.ok("rm", "-f", "talks")
    terminal.wait()
    for client in clients:
        client.communicate(timeout=10)


def test_daemon_of_these_tests_has_the_extra_descriptors_and_variables(exposed: Exposed) -> None:
    """Checks that the daemon itself has inherited the descriptors and variables. Otherwise the tests above would prove
    nothing."""
    assert exposed.process is not None
    environment, held = _environment(exposed.process.pid), _descriptors(exposed.process.pid).values()
    assert HOSTILE.items() <= environment.items()
    assert {"/etc/passwd", "/etc/group", "/dev/zero"} <= set(held)
    assert busybox() and BUSYBOX in exposed.ok("images", "--format", "{{.Repository}}:{{.Tag}}")
