"""`orlop system check` and `orlop debug bundle` on a real daemon: no false findings, correct findings, safe repairs."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine, until

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

SLEEP = (BUSYBOX, "sleep", "600")
SOUND = {"findings": [], "ok": True}
STRANGER = "ab" * 32
LINK = f"otc{os.getpid()}"  # unique to this run, because a killed run may have left its link


def check(engine: Engine, *flags: str) -> dict[str, Any]:
    result = engine.orlop("system", "check", "--format", "json", *flags)
    assert result.code in (0, 1), result.err
    report = json.loads(result.out)
    assert result.code == (not report["ok"])
    return dict(report)


def offline(engine: Engine, *flags: str) -> tuple[int, dict[str, Any]]:
    result = engine.run([*engine.command, "--check", *flags])
    return result.code, json.loads(result.out) if result.out else {"error": result.err}


@pytest.fixture
def litter(engine: Engine) -> Iterator[Engine]:
    """The shared daemon with one fault of each kind, and a container without faults."""
    table, parent = f"orlop_{engine._derived.instance}", engine.cgroup_parent
    engine.ok("run", "-d", "--name", "orderly", "-p", f"{free_port()}:80", "-v", "mine:/x", *SLEEP)
    blobs = engine.data_root / "content" / "blobs" / "sha256"
    (engine.data_root / "containers" / STRANGER).mkdir()
    (engine.exec_root / "run" / STRANGER[:32]).mkdir()
    (engine.exec_root / "runtime-runc" / STRANGER).mkdir(parents=True)
    (blobs / STRANGER).write_bytes(b"of no image")
    (engine.data_root / "volumes" / "found" / "_data").mkdir(parents=True)
    (engine.data_root / "overlay2" / STRANGER / "diff").mkdir(parents=True)
    kept = engine.data_root / "overlay2" / ("cd" * 32)
    (kept / "diff").mkdir(parents=True)
    (kept / "diff" / "file").write_text("somebody's")
    groups = Path("/sys/fs/cgroup")
    group = (groups / "pids" if (groups / "pids").is_dir() else groups) / parent / STRANGER
    group.mkdir()
    sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (group / "cgroup.procs").write_text(str(sleeper.pid))
    here = engine.exec_root / "mnt" / STRANGER[:32]
    here.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(here)], check=True)
    subprocess.run(["ip", "link", "add", LINK, "type", "veth", "peer", f"{LINK}p"], check=True)
    alias = f"orlop-{engine._derived.instance}:endpoint:{STRANGER}"
    subprocess.run(["ip", "link", "set", LINK, "alias", alias], check=True)
    _nft(f"add element inet {table} ports4 {{ tcp . 64999 : 192.0.2.9 . 80 }}")
    (port,) = engine.inspect("orderly")["NetworkSettings"]["Ports"]["80/tcp"][:1]
    _nft(f"delete element inet {table} ports4 {{ tcp . {port['HostPort']} }}")
    try:
        yield engine
    finally:
        sleeper.kill()
        sleeper.wait()
        subprocess.run(["umount", str(here)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", LINK], capture_output=True, check=False)
        engine.ok("rm", "-f", "orderly")
        engine.docker("volume", "rm", "mine", "found")
        subprocess.run(["rm", "-r", str(kept)], check=True)


def _nft(command: str) -> None:
    subprocess.run(["nft", *command.split()], check=True)


def test_system_check_finds_and_repairs_damage_and_leftovers(litter: Engine) -> None:
    report = check(litter)
    found = {(finding["area"], finding["object"].split()[0]) for finding in report["findings"]}
    assert found == {
        ("cgroups", "cgroup"),
        ("containers", "directory"),
        ("images", "blob"),
        ("monitors", "run"),
        ("monitors", "runtime"),
        ("mounts", "mount"),
        ("network", "link"),
        ("network", "nft"),
        ("storage", "directory"),
        ("volumes", "volume"),
    }
    texts = " ".join(finding["text"] for finding in report["findings"])
    assert "with 1 processes in it" in texts
    assert "has an element that belongs to no running container: tcp . 64999" in texts
    assert "lacks tcp . " in texts

    text = litter.orlop("system", "check", "--repair", check=1).out
    assert f"repaired  run {STRANGER[:32]}: kill the processes and remove the directory: done" in text
    assert text.endswith("contains files (storage overlay2)\n1 findings.\n"), "what may be somebody's stays"
    assert (litter.data_root / "overlay2" / ("cd" * 32) / "diff" / "file").read_text() == "somebody's"
    assert litter.ok("volume", "ls", "-q").split() == ["found", "mine"]
    assert litter.state("orderly") == "running"
    assert litter.ok("exec", "orderly", "echo", "well") == "well"


def test_system_check_does_not_report_operations_in_progress(engine: Engine) -> None:
    """Containers are created and removed during the check."""
    loop = "for n in 1 2 3 4 5 6; do docker run --rm -v /x busybox true; docker run -d --name w$0 busybox sleep 9; "
    loop += "docker rm -f w$0; done"
    workers = [
        subprocess.Popen(["sh", "-ec", loop, str(number)], env=engine.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for number in range(2)
    ]
    rounds = 0
    while any(worker.poll() is None for worker in workers):
        assert engine.api("GET", "/orlop/check") == (200, SOUND)
        rounds += 1
    assert [worker.communicate()[1] for worker in workers] == [b"", b""]
    assert rounds >= 3
    assert check(engine, "--deep") == SOUND


def test_system_check_without_a_daemon_reports_and_repairs_damage(fresh: Callable[..., Engine]) -> None:
    one = fresh({"live-restore": True, "shutdown-timeout": 3})
    one.ok("run", "-d", "--name", "cc", *SLEEP)
    code, answer = offline(one)
    assert code == 2
    assert "is still running and uses it" in answer["error"]
    one.stop()
    assert offline(one, "--deep") == (0, SOUND)
    down = one.orlop("system", "check")
    assert down.code == 2
    assert "To check without a daemon, run: orlopd --check" in down.err
    assert one.run([*one.command, "--repair"]).err.startswith("--repair needs --check")

    (one.exec_root / "run" / STRANGER[:32]).mkdir()
    (one.data_root / "containers" / STRANGER).mkdir()
    code, answer = offline(one)
    assert code == 0, "the next start settles it"
    assert {finding["severity"] for finding in answer["findings"]} == {"info"}
    code, answer = offline(one, "--repair")
    assert (code, len(answer["repaired"]), answer["findings"]) == (0, 2, [])

    monitor = int(json.loads(next((one.exec_root / "run").glob("*/monitor.json")).read_text())["pid"])
    os.kill(monitor, 9)
    until(lambda: next((one.exec_root / "run").glob("*/exit.json"), None), "the zygote's record")
    code, answer = offline(one)
    assert code == 0
    assert "is recorded as running, but its monitor is dead" in [finding["text"] for finding in answer["findings"]]
    one.start()
    assert check(one) == SOUND
    assert one.inspect("cc")["State"]["ExitCode"] in (137, 255)

    one.stop()
    (one.data_root / "orlop.db").unlink()
    assert offline(one)[0] == 2


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        found = {}
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found


def bundle(engine: Engine, name: str, *flags: str) -> tuple[dict[str, str], str]:
    path = engine.home / name
    result = engine.orlop("debug", "bundle", "-o", str(path), *flags, check=0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert result.out.startswith(f"{path}\n")
    found = unpacked(path)
    assert [line.split()[0] for line in result.out.splitlines()[1 : len(found) + 1]] == list(found)
    return found, result.err


def test_debug_bundle_contains_state_and_no_secrets(fresh: Callable[..., Engine]) -> None:
    one = fresh({"live-restore": True, "shutdown-timeout": 3, "proxies": {"http-proxy": "http://joe:hidden1@proxy:3128"}})
    ident = one.ok("run", "-d", "--name", "cc", "-e", "PASSWORD=hidden2", "-e", "URL=http://u:hidden3@x/", *SLEEP)
    found, _ = bundle(one, "one.tar.gz")
    documents = {name: json.loads(text) for name, text in found.items() if name.endswith(".json")}
    assert documents["version.json"]["Version"]
    assert documents["info.json"]["Containers"] == 1
    assert documents["check.json"] == SOUND
    assert documents["config.json"]["Values"]
    assert documents["database.json"]["rows"]["containers"] == 1
    assert documents["monitors.json"][ident[:32]]["status"]["phase"] == "running"
    assert documents["containers.json"][0]["Id"] == ident
    inspected = documents[f"containers/{ident[:12]}.json"]
    assert "PASSWORD=xxxxx" in inspected["Config"]["Env"]
    assert any('"Action": "start"' in line for line in found["events.jsonl"].splitlines())
    assert f"link {one.bridge} " in found["network-bridge.txt"]
    assert "task " in found["tasks.txt"]
    assert ident in found["cgroups.txt"]
    assert "is ready after" in found["daemon.log"]
    assert str(one.exec_root) in found["mounts.txt"]
    assert "monitors.log" in found
    assert not [name for name, text in found.items() if "hidden" in text]

    assert "hidden2" in "".join(bundle(one, "two.tar.gz", "--with-env")[0].values())
    again = one.orlop("debug", "bundle", "-o", str(one.home / "two.tar.gz"))
    assert (again.code, "the file already exists" in again.err) == (1, True)

    one.stop()
    config = one.home / "all.json"
    roots = {"data-root": str(one.data_root), "exec-root": str(one.exec_root), "hosts": [f"unix://{one.socket}"]}
    config.write_text(json.dumps({**json.loads(one.config_path.read_text()), **roots}))
    one.env["PATH"] = f"{Path(sys.executable).parent}:{one.env['PATH']}"
    found, complaint = bundle(one, "three.tar.gz", "--config-file", str(config))
    assert "The bundle contains what is available without the daemon" in complaint
    assert json.loads(found["check.json"]) == SOUND
    assert json.loads(found["monitors.json"])[ident[:32]]["alive"] is True
    assert found["config.json"].startswith("{")
    assert not [name for name, text in found.items() if "hidden" in text]
    one.start()
