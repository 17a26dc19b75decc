"""`docker stats` and its API: values of real cgroups, for many clients."""

import json
import socket
import threading
import time

import pytest
from tests.integration.engine import BUSYBOX, UnixConnection

pytestmark = pytest.mark.root

_BUSY = ("sh", "-c", "dd if=/dev/zero of=/dev/shm/held bs=1M count=20 2>/dev/null; while :; do :; done")


def lines(engine, name, count, got):
    connection = UnixConnection(engine.socket)
    connection.request("GET", f"/containers/{name}/stats")
    answer = connection.getresponse()
    for _ in range(count):
        got.append(json.loads(answer.readline()))
    connection.close()


def test_stats_show_the_usage_of_a_container(engine):
    engine.ok("run", "-d", "--name", "busy", "-m", "64m", "--pids-limit", "50", BUSYBOX, *_BUSY)
    time.sleep(0.5)
    address = engine.inspect("busy")["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        for _ in range(5):
            sock.sendto(bytes(1000), (address, 9))
    status, found = engine.api("GET", "/containers/busy/stats?stream=0")
    assert status == 200
    cpu, before = found["cpu_stats"], found["precpu_stats"]
    used = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    system = cpu["system_cpu_usage"] - before["system_cpu_usage"]
    assert 0 < used <= system and cpu["online_cpus"] >= 1
    assert found["memory_stats"]["limit"] == 64 << 20
    assert found["memory_stats"]["usage"] > 20 << 20
    assert found["pids_stats"]["current"] >= 1 and found["pids_stats"]["limit"] == 50
    assert found["networks"]["eth0"]["rx_bytes"] >= 5000 and found["networks"]["eth0"]["rx_packets"] >= 5
    assert (found["name"], found["id"]) == ("/busy", engine.inspect("busy")["Id"])
    once = engine.api("GET", "/containers/busy/stats?stream=0&one-shot=1")[1]
    assert "system_cpu_usage" not in once["precpu_stats"] and once["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert engine.api("GET", "/containers/busy/stats?one-shot=1")[0] == 400
    shown = engine.ok("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}} {{.PIDs}} {{.CPUPerc}}", "busy").split()
    assert shown[0] == "busy" and shown[3] == "64MiB" and float(shown[-1].rstrip("%")) > 10


def test_stats_omit_the_host_network_and_are_zero_for_a_container_that_does_not_run(engine):
    engine.ok("run", "-d", "--name", "hosted", "--network", "host", BUSYBOX, "sleep", "1000")
    assert "networks" not in engine.api("GET", "/containers/hosted/stats?stream=0&one-shot=1")[1]
    engine.ok("create", "--name", "still", BUSYBOX, "true")
    found = engine.api("GET", "/containers/still/stats?stream=0")[1]
    assert found["read"] == "0001-01-01T00:00:00Z" and found["memory_stats"] == {} and found["pids_stats"] == {}
    assert engine.api("GET", "/containers/nosuch/stats")[0] == 404
    assert engine.ok("stats", "--no-stream", "--format", "{{.MemUsage}}", "still") == "0B / 0B"


def test_stats_clients_share_samples_and_stay_connected_while_the_container_restarts(engine):
    engine.ok("run", "-d", "--name", "watched", BUSYBOX, "sleep", "1000")
    first: list = []
    second: list = []
    viewers = [threading.Thread(target=lines, args=(engine, "watched", 3, got)) for got in (first, second)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join(20)
    assert [len(first), len(second)] == [3, 3]
    assert {item["read"] for item in first[1:]} & {item["read"] for item in second[1:]}
    assert first[1]["precpu_stats"]["cpu_usage"] == first[0]["cpu_stats"]["cpu_usage"]
    seen: list = []
    viewer = threading.Thread(target=lines, args=(engine, "watched", 6, seen))
    viewer.start()
    time.sleep(0.5)
    engine.ok("restart", "-t", "0", "watched")
    viewer.join(20)
    assert len(seen) == 6 and seen[-1]["pids_stats"]["current"] == 1
