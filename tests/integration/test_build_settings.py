"""Options of steps, and filters of the cache, beside dockerd."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.integration.building.clients import Client, Clients, build_clients
from tests.integration.engine import Engine
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

# Prints what a step sees. Docker's network files are similar, but not equal, so only the parts that steps rely on are
# compared
SHOWN = {
    "hosts": "grep -E '^(10.1|fd)' /etc/hosts | tr '\\t' ' '",
    "gate": "grep -c gate /etc/hosts",
    "own name": "grep -qw $(hostname) /etc/hosts && hostname",
    "servers": "grep nameserver /etc/resolv.conf",
    "links": "ls /sys/class/net | grep -vE '^(veth|br-|orlop|otp)'",
    "limits": "ulimit -a",
    "shm": "grep /dev/shm /proc/mounts | grep -o 'size=[0-9k]*'",
    "group": "grep -c /orlop-settings/ /proc/self/cgroup",
    "environment": "env | sort",
    "privileges": "grep -E 'Cap|Seccomp|NoNew' /proc/self/status",
}
OPTIONS = {
    "no network": ["--network=none"],
    "default network": ["--network=default"],
    "network of the host": ["--network=host", "--allow=network.host"],
    "hosts": ["--add-host", "a:10.1.2.3", "--add-host", "six=fd00::1", "--add-host", "gate:host-gateway"],
    "limits": ["--ulimit", "nofile=321:654", "--ulimit", "core=0", "--shm-size=33554432"],
    "cgroup": ["--cgroup-parent", "/orlop-settings"],
    "proxies": ["--build-arg", "HTTP_PROXY=http://p:1", "--build-arg", "no_proxy=x"],
}
DU = (
    "id=nosuch id~=x type==regular mutable private=true parents=x label.a=x until=x type=regular,inuse type=a, id!=x".split()
)
PRUNE = "id~=x what=x until=x".split()


@pytest.fixture(scope="module")
def clients(shared: Engine, sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with build_clients(shared, sides, tmp_path_factory.mktemp("settings")) as found:
        yield found


def shown(client: Client, options: list[str]) -> dict[str, str]:
    script = "".join(f"echo '<<{name}'; {command}; echo '>>'\n" for name, command in SHOWN.items())
    (client.directory / "Dockerfile").write_text(f"FROM busybox\nRUN <<END\n{script}END\n")
    result = client.build("--no-cache", *options, ".")
    assert result.code == 0, result.err
    text = re.sub(r"^#\d+ (\d+\.\d+ )?", "", result.err, flags=re.MULTILINE)
    found = dict(re.findall(r"^<<([a-z ]+)\n(.*?)^>>$", text, re.MULTILINE | re.DOTALL))
    assert found.keys() == SHOWN.keys()
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_step_sees_what_the_option_says(clients: Clients, name: str) -> None:
    clients.same(lambda client: shown(client, OPTIONS[name]))


def test_disk_usage_describes_a_cache_mount(clients: Clients) -> None:
    def descriptions(client: Client) -> list[str]:
        client.ok("builder", "prune", "-af")
        client.ok("build", ".")
        listed = client.ok("buildx", "du", "--verbose", "--filter", "type=exec.cachemount").out
        return re.findall(r"^Description:\s*(.*)$", listed, re.MULTILINE)

    clients.write("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/c,id=some echo a > /a\n")
    clients.same(descriptions)


def test_filters_select_records_of_the_build_cache(clients: Clients) -> None:
    def answers(client: Client) -> list[object]:
        client.ok("builder", "prune", "-af")
        client.ok("build", "-t", "tb-filters", ".")
        found = list[object]()
        commands = [["buildx", "du", "--verbose", "--filter", text] for text in DU]
        for text in PRUNE:
            commands += [["builder", "prune", "-f", "--filter", text], ["buildx", "prune", "-f", "--filter", text]]
        for command in commands:
            result = client.run(*command)
            kinds = set(re.findall(r"^Type:\s*(.*)$", result.out, re.MULTILINE))
            found.append((command, result.code, result.err.strip(), kinds))
        return found

    clients.write("Dockerfile", "FROM busybox\nCOPY Dockerfile /\nRUN --mount=type=cache,target=/c echo a > /a\n")
    clients.same(answers)
