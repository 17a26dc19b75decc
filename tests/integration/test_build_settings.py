"""Options of steps, and filters of the cache, compared with dockerd."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

import pytest
from tests.integration.building.clients import Client, Clients, build_clients, remove_cgroups
from tests.integration.docker_root import Dockerd
from tests.integration.engine import Engine, archive
from tests.integration.parity import Side

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

# Prints what a step sees. Docker's network files are similar, but not equal, so only the parts that steps rely on are
# compared
SHOWN = {
    "hosts": "grep -E '^(10.1|fd)' /etc/hosts | tr '\\t' ' '",
    "gate": "grep -c gate /etc/hosts",
    "own name": "grep -qw $(hostname) /etc/hosts && hostname",
    "servers": "grep -E '^(nameserver|search|options)' /etc/resolv.conf | sort",
    "files": """awk '$2 ~ "^/etc/" {print $2, substr($4, 1, 2)}' /proc/mounts | sort""",
    "changed": "for f in hosts resolv.conf hostname; do (echo '# x' >> /etc/$f) 2>/dev/null && echo $f; done; true",
    "links": "ls /sys/class/net | grep -vE '^(veth|br-|orlop|otp)'",
    "limits": "ulimit -a",
    "shm": "grep /dev/shm /proc/mounts | grep -o 'size=[0-9k]*'",
    "group": "grep -c /orlop-settings/ /proc/self/cgroup",
    "environment": "env | sort",
    "proxies": "env | grep -i proxy | sort",
    "privileges": "grep -E 'Cap|Seccomp|NoNew' /proc/self/status",
}
# What a step of the classic builder sees in the same way: its other files and its environment have the container's name
CLASSIC = ("servers", "changed", "proxies", "limits", "shm", "privileges")
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


# Keys of daemon.json: those for DNS are for steps, too; proxies are for the daemon's own connections
KEYS = {
    "dns": ["192.0.2.1", "192.0.2.2"],
    "dns-search": ["s.example", "t.example"],
    "dns-opts": ["timeout:3"],
    "proxies": {"http-proxy": "http://p:1", "https-proxy": "http://q:2", "no-proxy": "n.example"},
}


@pytest.fixture(scope="module")
def clients(shared: Engine, sides: tuple[Side, Side], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with build_clients(shared, sides, tmp_path_factory.mktemp("settings")) as found:
        yield found
        remove_cgroups("orlop-settings")


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """Both engines with the same daemon.json."""
    home = tmp_path_factory.mktemp("keys")
    dockerd = Dockerd(home, containerd=False)
    (home / "daemon.json").write_text(json.dumps(KEYS))
    engine = Engine(KEYS)
    try:
        dockerd.start()
        engine.start()
        sides = Side("dockerd", dockerd.socket, home, ""), Side("orlopd", engine.socket, engine.home, "")
        with build_clients(engine, sides, home) as found:
            for each in found:
                each.ok("load", "-q", stdin=archive())
            yield found
    finally:
        dockerd.close()
        assert not engine.close()


def shown(client: Client, options: list[str], names: Iterable[str] = SHOWN) -> dict[str, str]:
    script = "".join(f"echo '<<{name}'; {SHOWN[name]}; echo '>>'\n" for name in names)
    kit = client.env.get("DOCKER_BUILDKIT") != "0"
    text = f"FROM busybox\nRUN <<END\n{script}END\n"
    if not kit:
        text = "FROM busybox\nRUN " + script.replace("\n", "; \\\n") + "true\n"
    (client.directory / "Dockerfile").write_text(text)
    result = client.run("build", *(["--progress=plain"] if kit else []), "--no-cache", *options, ".")
    assert result.code == 0, result.err
    printed = re.sub(r"^#\d+ (\d+\.\d+ )?", "", result.err, flags=re.MULTILINE) if kit else result.out
    found = dict(re.findall(r"^<<([a-z ]+)\n(.*?)^>>$", printed, re.MULTILINE | re.DOTALL))
    assert found.keys() == set(names)
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_build_options_have_the_same_effects_on_a_step_as_in_dockerd(clients: Clients, name: str) -> None:
    """With each option of `build`, a step sees the same as with dockerd."""
    clients.same(lambda client: shown(client, OPTIONS[name]))


@pytest.mark.parametrize("network", ["default", "none", "host"])
def test_step_gets_the_dns_settings_of_daemon_json_but_not_its_proxies(configured: Clients, network: str) -> None:
    options = [f"--network={network}", *(["--allow=network.host"] if network == "host" else [])]
    seen = configured.same(lambda client: shown(client, options))
    assert isinstance(seen, dict)
    assert not seen["proxies"]
    assert seen["servers"].splitlines() == [
        "nameserver 192.0.2.1",
        "nameserver 192.0.2.2",
        "options timeout:3",
        "search s.example t.example",
    ]


def test_step_of_the_classic_builder_gets_the_same_settings_of_daemon_json_as_in_dockerd(
    configured: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic builder's steps see the same as with dockerd, and can change three network files."""
    for each in configured:
        monkeypatch.setitem(each.env, "DOCKER_BUILDKIT", "0")
    seen = configured.same(lambda client: shown(client, [], CLASSIC))
    assert isinstance(seen, dict)
    assert seen["changed"].split() == ["hosts", "resolv.conf", "hostname"]


def test_buildx_du_shows_the_same_description_of_a_cache_mount_as_in_dockerd(clients: Clients) -> None:
    def descriptions(client: Client) -> list[str]:
        client.ok("builder", "prune", "-af")
        client.ok("build", ".")
        listed = client.ok("buildx", "du", "--verbose", "--filter", "type=exec.cachemount").out
        return re.findall(r"^Description:\s*(.*)$", listed, re.MULTILINE)

    clients.write("Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/c,id=some echo a > /a\n")
    clients.same(descriptions)


def test_filters_select_the_same_build_cache_records_as_in_dockerd(clients: Clients) -> None:
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
