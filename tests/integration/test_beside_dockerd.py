"""On a test host with a real dockerd that installs firewall rules, Orlop's rules do not affect Docker's networks."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.engine import BUSYBOX, archive, patience, until
from tests.integration.net_host import HOST, HTTP, NETWORK, REMOTE, Host, Namespace, on_host, run

from orlop_net_bridge._plan import ADMITTED

pytestmark = [pytest.mark.root, pytest.mark.skipif(not shutil.which("dockerd"), reason="no dockerd to run beside")]

SLEEP = (BUSYBOX, "sleep", "600")


class Dockerd:
    """dockerd in this thread's network namespace, with roots of its own."""

    def __init__(self, stack: contextlib.ExitStack, home: Path) -> None:
        self._stack = stack
        self._socket = f"unix://{home}/s"
        argv = ["dockerd", "--data-root", f"{home}/data", "--exec-root", f"{home}/run", "-H", self._socket]
        self._cgroup = home.name
        # The namespace inherits this setting. If forwarding is on, dockerd treats the host as a router and keeps FORWARD's
        # policy.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        self._log = (home / "log").open("wb")
        self._process = subprocess.Popen(
            [*argv, "--pidfile", f"{home}/pid", "--cgroup-parent", f"/{self._cgroup}"],
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        until(self._answers, "dockerd answers", 60)
        subprocess.run([*self._client, "load", "-q"], input=archive(), check=True, capture_output=True)

    @property
    def _client(self) -> list[str]:
        return ["docker", "-H", self._socket]

    def _answers(self) -> bool:
        assert self._process.poll() is None, "dockerd ended"
        return subprocess.run([*self._client, "version"], capture_output=True, check=False).returncode == 0

    def ok(self, *argv: str) -> str:
        return run(*self._client, *argv).strip()

    def container(self, *flags: str) -> tuple[Namespace, str]:
        """Start a container that serves on ports 80 and 81. Returns the container and its address."""
        ident = self.ok("run", "-d", *flags, *SLEEP)
        found = json.loads(self.ok("inspect", ident))[0]
        namespace = Namespace(self._stack, f"/proc/{found['State']['Pid']}/ns/net")
        namespace.serve(80)
        namespace.serve(81)
        (network,) = found["NetworkSettings"]["Networks"].values()
        return namespace, network["IPAddress"]

    def close(self) -> None:
        if idents := self.ok("ps", "-aq").split():
            self.ok("rm", "-f", *idents)
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(patience(60))
        self._log.close()
        groups = Path("/sys/fs/cgroup")
        for group in (groups / self._cgroup, *groups.glob(f"*/{self._cgroup}")):
            if group.is_dir():
                group.rmdir()


@contextlib.contextmanager
def dockerd(stack: contextlib.ExitStack) -> Iterator[Dockerd]:
    home = Path(tempfile.mkdtemp(prefix="otd-", dir="/tmp"))
    try:
        with contextlib.closing(Dockerd(stack, home)) as daemon:
            yield daemon
    finally:
        shutil.rmtree(home)


def user_chain() -> str:
    return run("iptables", "-S", "DOCKER-USER")


@on_host()
async def test_traffic_of_docker_networks_is_filtered_only_by_docker_s_rules(host: Host) -> None:
    host.remote.serve(9000)
    with dockerd(host.stack) as docker:
        await host.driver.create_network(NETWORK)
        ours, endpoint, state = await host.container(2, HTTP)
        public, public_address = docker.container("-p", "8090:80")
        # Created after Orlop's rules, so they do not mention its bridge.
        docker.ok("network", "create", "--internal", "--subnet", "10.214.0.0/24", "inner")
        inner, inner_address = docker.container("--network", "inner")
        _, other_inner = docker.container("--network", "inner")
        assert inner.call(other_inner, 80) == inner_address, "it works"

        assert ours.call(inner_address, 80, 0.5) == "", "not into an internal network"
        assert ours.call(public_address, 81, 0.5) == "", "what Docker does not publish"
        assert ours.call(HOST, 8090) != "", "by the published port"
        with inner.inside():
            run("ip", "route", "replace", "default", "via", "10.214.0.1")
        assert inner.call("10.211.0.2", 80, 0.5) == "", "not out of an internal network"
        assert inner.call("10.214.0.1", 8080, 0.5) == "", "not to a published port of ours either"
        assert public.call(HOST, 8080) != "", "Docker's other containers reach what we publish"
        assert public.call("10.211.0.2", 81, 0.5) == ""

        assert host.remote.call(HOST, 8080) == REMOTE
        assert host.remote.call(HOST, 8090) == REMOTE
        assert ours.call(REMOTE, 9000) == HOST
        assert public.call(REMOTE, 9000) == HOST
        assert ours.call(HOST, 8080) == "10.211.0.1", "its own port"

        assert "orlop" in user_chain(), "iptables can read our rules"
        await host.driver.detach(endpoint, state)
        await host.driver.delete_network(NETWORK)
        assert "orlop" not in user_chain()


@on_host()
async def test_containers_reach_other_hosts_over_a_bridge_made_by_an_administrator(host: Host) -> None:
    """The host reaches its neighbour over an administrator's bridge: by a gateway behind the bridge, or by a link that is a
    port of the bridge."""
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "address", "flush", "dev", "eth0")
    run("ip", "link", "set", "eth0", "master", "br0")
    run("ip", "address", "add", f"{HOST}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    run("ip", "route", "add", "198.51.100.0/24", "via", REMOTE)
    with host.remote.inside():
        run("ip", "address", "add", "198.51.100.7/32", "dev", "lo")
    host.remote.serve(9000)
    with dockerd(host.stack) as docker:
        docker.ok("network", "create", "--internal", "--subnet", "10.214.0.0/24", "inner")
        await host.driver.create_network(NETWORK)
        ours, _, _ = await host.container(2, HTTP)
        assert ours.call("198.51.100.7", 9000) == HOST
        assert host.remote.call(HOST, 8080) == REMOTE
        _, inner_address = docker.container("--network", "inner")
        assert ours.call(inner_address, 80, 0.5) == ""


@on_host()
async def test_packet_marks_set_by_other_programs_do_not_open_the_firewall(host: Host) -> None:
    """DOCKER-USER does not accept packets on which another program has set Orlop's bit of the mark. The other bits of the
    mark are kept."""
    hook = "type filter hook"
    rules = f"""
        table inet other {{
            chain before {{ {hook} prerouting priority mangle; meta mark set {ADMITTED | 0x42:#x};
            }}
            chain after {{ {hook} forward priority 10; meta mark & {ADMITTED:#x} != 0 counter;
            }}
            chain kept {{ {hook} forward priority 10; meta mark & 0x42 != 0x42 counter;
            }}
        }}
    """
    run("nft", "-f", "-", stdin=rules)
    with dockerd(host.stack) as docker:
        await host.driver.create_network(NETWORK)
        ours, _, _ = await host.container(2, HTTP)
        _, address = docker.container()
        assert ours.call(address, 80, 0.5) == ""
        assert host.remote.call(HOST, 8080) == REMOTE
        listing = run("nft", "list", "table", "inet", "other")
        assert listing.count("counter packets 0 ") == 2, listing


@on_host()
async def test_accept_rules_of_an_earlier_version_are_replaced(host: Host) -> None:
    run(
        "nft",
        "-f",
        "-",
        stdin="""
        table ip filter {
            chain DOCKER-USER { }
            chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER
            }
        }
    """,
    )
    await host.driver.create_network(NETWORK)
    run("nft", "flush", "chain", "ip", "filter", "DOCKER-USER")
    bridge = f"br-{NETWORK.id[:12]}"
    for side in ("iifname", "oifname"):
        run("nft", "add", "rule", "ip", "filter", "DOCKER-USER", side, bridge, "accept", "comment", f'"orlop_test:{bridge}"')
    await host.driver.restore([NETWORK], [])
    rules = [line for line in user_chain().splitlines() if "orlop" in line]
    assert len(rules) == 2 and all("--mark" in rule for rule in rules)
