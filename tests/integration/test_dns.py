"""Lookup of containers by name, after changes of networks and restarts of the daemon."""

import json
import socket
import struct
import subprocess
import sys
import threading

import pytest
from tests.integration.engine import BUSYBOX, until

from orlop_monitor.dns import wire

pytestmark = pytest.mark.root


@pytest.fixture
def net(engine, name):
    network = f"net-{name}"
    engine.ok("network", "create", network)
    yield network
    left = engine.docker("ps", "-aq", "--filter", f"network={network}").out.split()
    if left:
        engine.docker("rm", "-f", *left)
    engine.ok("network", "rm", network)


def sleeper(engine, name, *options):
    engine.ok("run", "-d", "--name", name, *options, BUSYBOX, "sleep", "1000")


def lookup(engine, container, wanted):
    """The addresses that nslookup prints for a name."""
    found = engine.docker("exec", container, "nslookup", wanted)
    lines = found.out.partition("\n\n")[2].splitlines()
    return sorted(line.split()[-1] for line in lines if line.startswith("Address"))


def address(engine, container, network):
    return engine.inspect(container)["NetworkSettings"]["Networks"][network]["IPAddress"]


def test_containers_of_a_network_resolve_each_others_names(engine, net):
    sleeper(engine, "one", "--network", net)
    sleeper(engine, "two", "--network", net, "--network-alias", "service", "--hostname", "Second")
    sleeper(engine, "three", "--network", net, "--network-alias", "service")
    assert "nameserver 127.0.0.11" in engine.ok("exec", "one", "cat", "/etc/resolv.conf")
    two, three = address(engine, "two", net), address(engine, "three", net)
    assert lookup(engine, "one", "two") == [two]
    assert lookup(engine, "one", f"TWO.{net}") == [two]
    assert lookup(engine, "one", engine.inspect("two")["Id"][:12]) == [two]
    assert lookup(engine, "one", "second") == [two]
    assert lookup(engine, "one", "service") == sorted((two, three))
    assert engine.docker("exec", "one", "ping", "-c", "1", "-W", "2", "three").code == 0
    assert f"two.{net}" in engine.ok("exec", "one", "nslookup", two)
    engine.ok("rename", "three", "third")
    assert lookup(engine, "one", "third") == [three] and not lookup(engine, "one", "three")
    engine.ok("stop", "-t", "0", "two")
    assert not lookup(engine, "one", "two") and lookup(engine, "one", "service") == [three]


def test_container_can_run_its_own_name_server(engine, net):
    sleeper(engine, "client", "--network", net)
    bind = "import socket as s; [s.socket(s.AF_INET, k).bind(('0.0.0.0', 53)) for k in (s.SOCK_STREAM, s.SOCK_DGRAM)]"
    pid = str(engine.inspect("client")["State"]["Pid"])
    engine.run(["nsenter", "-t", pid, "-n", sys.executable, "-c", bind], check=0)


def test_names_on_a_network_change_immediately_after_connect_and_disconnect(engine, net):
    sleeper(engine, "walker")
    sleeper(engine, "home", "--network", net)
    assert "127.0.0.11" not in engine.ok("exec", "walker", "cat", "/etc/resolv.conf")
    engine.ok("network", "connect", "--alias", "guest", net, "walker")
    there = address(engine, "walker", net)
    assert lookup(engine, "home", "guest") == [there]
    assert lookup(engine, "walker", "home") == [address(engine, "home", net)]
    assert there in engine.ok("exec", "walker", "cat", "/etc/hosts")
    engine.ok("network", "disconnect", net, "walker")
    assert not lookup(engine, "home", "guest")
    assert there not in engine.ok("exec", "walker", "cat", "/etc/hosts")


def test_linked_container_is_found_by_the_name_that_the_link_gives(engine, net):
    sleeper(engine, "store", "--network", net)
    sleeper(engine, "user", "--network", net, "--link", "store:db")
    assert lookup(engine, "user", "db") == [address(engine, "store", net)]
    assert not lookup(engine, "store", "db")
    sleeper(engine, "old-store", "--hostname", "keeper")
    sleeper(engine, "old-user", "--link", "old-store:db")
    line = f"{address(engine, 'old-store', 'bridge')}\tdb keeper old-store"
    assert line in engine.ok("exec", "old-user", "cat", "/etc/hosts")
    missing = engine.docker("run", "--rm", "--link", "nosuch:db", BUSYBOX, "true")
    assert missing.code == 125 and "could not get container for nosuch" in missing.err
    sleeper(engine, "shares", "--network", "container:old-store")
    sleeper(engine, "by-the-other", "--link", "shares:db")
    assert line in engine.ok("exec", "by-the-other", "cat", "/etc/hosts"), "whose network it shares"
    elsewhere = engine.docker("run", "--rm", "--link", "store:db", BUSYBOX, "true")
    assert elsewhere.code == 125 and "Cannot link to /store, as it does not belong to the default network" in elsewhere.err
    sleeper(engine, "hosts-own", "--network", "host")
    host = engine.docker("run", "--rm", "--link", "hosts-own:db", BUSYBOX, "true")
    assert host.code == 125 and "host type networking can't be used with links" in host.err
    engine.ok("stop", "-t", "0", "old-store")
    stopped = engine.docker("run", "--rm", "--link", "old-store:db", BUSYBOX, "true")
    assert stopped.code == 125 and "Cannot link to a non running container" in stopped.err


def test_link_resolves_a_container_that_is_created_later(engine, net):
    """On a user-defined network, links are resolved at lookup, as in Docker."""
    sleeper(engine, "early", "--network", net, "--link", "late:db")
    assert not lookup(engine, "early", "db")
    sleeper(engine, "late", "--network", net)
    assert lookup(engine, "early", "db") == [address(engine, "late", net)]


class Upstream:
    """An outside name server: `good.test` has an address, `slow.test` gets no answer, all other names do not exist."""

    def __init__(self, host):
        self.udp, self.tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.udp.bind((host, 53))
        self.tcp.bind((host, 53))
        self.tcp.listen()
        self.asked = []
        for serve in (self._datagrams, self._connections):
            threading.Thread(target=serve, daemon=True).start()

    def _answer(self, data, kind):
        asked = wire.question(data)
        self.asked.append((kind, asked.name))
        if asked.name == "good.test":
            return wire.reply(data, asked, [wire.address_record("192.0.2.7")] if asked.type == wire.A else [])
        return wire.reply(data, asked, code=2 if asked.name == "slow.test" else 3)

    def _datagrams(self):
        while True:
            try:
                data, client = self.udp.recvfrom(4096)
            except OSError:
                return
            self.udp.sendto(self._answer(data, "udp"), client)

    def _connections(self):
        while True:
            try:
                client, _ = self.tcp.accept()
            except OSError:
                return
            with client:
                data = client.recv(4096)[2:]
                answer = self._answer(data, "tcp")
                client.sendall(struct.pack("!H", len(answer)) + answer)

    def close(self):
        self.tcp.shutdown(socket.SHUT_RDWR)
        self.tcp.close()
        self.udp.close()


def test_queries_for_outside_names_are_forwarded_to_outside_name_servers(engine, net):
    gateway = json.loads(engine.ok("network", "inspect", net))[0]["IPAM"]["Config"][0]["Gateway"]
    server = Upstream(gateway)
    try:
        sleeper(engine, "asker", "--network", net, "--dns", gateway)
        assert lookup(engine, "asker", "good.test") == ["192.0.2.7"]
        assert "NXDOMAIN" in engine.docker("exec", "asker", "nslookup", "bad.test").out
        assert "SERVFAIL" in engine.docker("exec", "asker", "nslookup", "-type=a", "slow.test").out
        assert lookup(engine, "asker", "asker") == [address(engine, "asker", net)]
        assert ("udp", "good.test") in server.asked and ("udp", "asker") not in server.asked
        # A query over TCP from the container's namespace
        query = struct.pack("!6H", 9, 0x0100, 1, 0, 0, 0) + b"\4good\4test\0" + struct.pack("!2H", 1, 1)
        framed = "".join(f"\\{byte:03o}" for byte in struct.pack("!H", len(query)) + query)
        asked = engine.docker("exec", "asker", "sh", "-c", f"printf '{framed}' | nc -w 2 127.0.0.11 53")
        assert asked.stdout[2:4] == b"\0\t" and asked.stdout.endswith(bytes((192, 0, 2, 7)))
        assert ("tcp", "good.test") in server.asked
    finally:
        server.close()


def test_names_resolve_while_no_daemon_runs_and_after_its_next_start(fresh):
    engine = fresh({"live-restore": True})
    engine.ok("network", "create", "lasting")
    script = "while :; do nslookup -type=a other >/dev/null 2>&1 && echo yes || echo no; sleep 0.1; done"
    sleeper(engine, "other", "--network", "lasting")
    engine.ok("run", "-d", "--name", "asks", "--network", "lasting", BUSYBOX, "sh", "-c", script)
    until(lambda: "yes" in engine.ok("logs", "asks"))
    engine.kill()
    engine.start()
    seen = engine.ok("logs", "asks").splitlines()
    until(lambda: len(engine.ok("logs", "asks").splitlines()) > len(seen) + 3)
    assert engine.ok("logs", "asks").splitlines().count("no") <= 1  # the first lookup may precede the start of "other"
    sleeper(engine, "late", "--network", "lasting")
    assert lookup(engine, "other", "late") == [address(engine, "late", "lasting")]
    engine.ok("rm", "-f", "other", "asks", "late")
    engine.ok("network", "rm", "lasting")


ASK = """
import socket, struct, sys
questions = [
    struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + bytes([len(name)]) + name.encode() + b"\\0" + struct.pack(">2H", 1, 1)
    for name in sys.argv[1:]
]
asker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asker.connect(("127.0.0.11", 53))
asker.settimeout(10)
right = 0
print("asking", flush=True)
while True:
    for question in questions:
        asker.send(question)
        code = asker.recv(512)[3] & 15
        if code:
            sys.exit(f"code {code} after {right} right answers")
        right += 1
"""


def test_container_names_resolve_correctly_while_the_daemon_restarts(fresh):
    """A start of the daemon replaces the names table of a network only when the new table is complete. With
    an incomplete table, name servers would forward missing names to outside servers, and the containers would get "no such
    host"."""
    engine = fresh({"live-restore": True, "shutdown-timeout": 3})
    engine.ok("network", "create", "net")
    peers = [f"peer{number}" for number in range(12)]
    for name in peers:
        sleeper(engine, name, "--net", "net")
    inside = ["nsenter", "-t", str(engine.inspect("peer0")["State"]["Pid"]), "-n", sys.executable, "-c", ASK, *peers]
    with subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asker:
        try:
            assert asker.stdout.readline() == "asking\n"
            for number in range(3):
                engine.kill()
                engine.start()
                engine.ok("network", "create", f"barrier{number}")  # returns once the networks are restored
            assert asker.poll() is None, asker.stderr.read()
        finally:
            asker.kill()
    engine.ok("rm", "-f", *peers)
    engine.ok("network", "rm", "net", *(f"barrier{number}" for number in range(3)))
