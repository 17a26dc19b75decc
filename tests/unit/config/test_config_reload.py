"""Settings that a reload changes in a running engine, settings that it must not change while containers run, and their
display."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import msgspec
import pytest
import trio
import trio.testing

from orlop_cli import __main__ as entry
from orlop_cli.testing import RecordedDaemon, answer
from orlop_engine import reload
from orlop_engine.config import Config, RuntimeEntry
from orlop_engine.config_check import problems
from orlop_engine.containers import reload_constraints
from orlop_engine.containers.container import Container
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.containers.paths import ContainerPaths
from orlop_engine.containers.record import ContainerRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.drivers import Drivers
from orlop_engine.images.content import ContentStore
from orlop_engine.images.download import Downloads
from orlop_engine.networks.records import AttachedEndpoint, Sandbox
from orlop_engine.service import EngineService
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig
from orlop_kernel.boot import systemd
from orlop_kernel.config import ConfigError, Loaded, load_all, parse
from orlop_kernel.daemon import Daemon
from orlop_monitor import records
from orlop_monitor.protocol import MonitorRecord
from orlop_sdk import Endpoint, EndpointState, NetworkSpec, PublishedPort, Subnet, linux


def test_higher_download_limit_applies_immediately_to_waiting_downloads(tmp_path: Path) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            downloads = Downloads(ContentStore(str(tmp_path)), nursery, 1, 5)
            entered: list[str] = []

            async def one(name: str) -> None:
                async with downloads._slot(name, lambda _: None):
                    entered.append(name)
                    await trio.sleep_forever()

            nursery.start_soon(one, "a")
            nursery.start_soon(one, "b")
            await trio.testing.wait_all_tasks_blocked()
            assert len(entered) == 1
            downloads.reconfigure(2, 7)
            await trio.testing.wait_all_tasks_blocked()
            assert len(entered) == 2
            assert downloads.attempts == 7
            nursery.cancel_scope.cancel()

    trio.run(main)


# --- running containers -------------------------------------------------------------------------------------------------

NETWORK = NetworkSpec(
    id="n",
    name="bridge",
    subnets=(Subnet("172.17.0.0/16", "172.17.0.1"), Subnet("fd00::/64", "fd00::1")),
    options={"com.docker.network.bridge.name": "orlop0"},
    ipv6=True,
)
PORTS = (PublishedPort("tcp", "0.0.0.0", 80, 80),)
FITTING = Config(live_restore=True, ipv6=True, data_root="/var/lib/orlop", exec_root="/run/orlop")


def record(
    number: int,
    *,
    driver: str = "overlay2",
    runtime: str = "runc",
    ports: tuple[PublishedPort, ...] = PORTS,
    rules: bool = True,
) -> ContainerRecord:
    endpoint = Endpoint(id="e", network=NETWORK, container_id="c", netns="", ports=ports)
    attached = AttachedEndpoint(driver="bridge", endpoint=endpoint, state=EndpointState(), settings=EndpointSettings())
    host = HostConfig()
    host.runtime = runtime
    return ContainerRecord(
        id=f"{number:032x}{0:032x}",
        name=f"c{number}",
        created_ns=number,
        args=[],
        config=ContainerConfig(),
        host_config=host,
        image_id="",
        storage_driver=driver,
        state=State(Phase.RUNNING),
        sandbox=Sandbox(container_id="c", container_name="c", network_mode="bridge", endpoints=(attached,), iptables=rules),
    )


class Living(NamedTuple):
    index: list[Container]
    paths: ContainerPaths
    config: Config


@pytest.fixture
def containers(tmp_path: Path) -> Callable[..., Living]:
    """Containers whose monitor is this process, their paths, and the configuration that they run with."""

    def make(*items: ContainerRecord, config: Config = FITTING) -> Living:
        paths, pid = ContainerPaths(config.data_root, str(tmp_path)), os.getpid()
        for item in items:
            run_dir = paths.run_dir(item.id)
            os.makedirs(run_dir)
            records.write(run_dir, MonitorRecord(pid, linux.process_start_time(pid), item.id))
        return Living([Container(item) for item in items], paths, config)

    return make


def changed(**fields: Any) -> Config:
    return Config(**{"live_restore": True, "ipv6": True, **fields})


def test_reload_can_change_settings_that_only_new_containers_use(containers: Callable[..., Living]) -> None:
    reload_constraints.check(*containers(record(1)), FITTING)
    reload_constraints.check(
        *containers(),
        changed(storage_driver="vfs", bip="10.0.0.1/8", exec_root="/elsewhere"),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"bip": "172.17.0.1/16", "bip6": "fd00::1/64", "fixed_cidr_v6": "fd00::8:0/112"},
        {"fixed_cidr_v6": "fd00::/64"},
        {"exec_opts": ("native.cgroupdriver=systemd",), "mtu": 9000, "log_driver": "local", "cgroup_parent": "/x"},
        {"runtimes": {"other": RuntimeEntry(path="/x")}, "default_runtime": "other", "storage_driver": "overlay2"},
    ],
)
def test_reload_allows_changes_that_do_not_affect_running_containers(
    containers: Callable[..., Living], fields: dict[str, Any]
) -> None:
    reload_constraints.check(*containers(record(1)), changed(**fields))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"storage_driver": "vfs"}, "use storage driver overlay2, but storage-driver is vfs"),
        ({"bridge": "br0"}, "are on bridge orlop0, but bridge is br0"),
        ({"bridge": "none"}, "are on bridge orlop0, but bridge is none"),
        ({"bip": "172.17.0.9/16"}, "have addresses of 172.17.0.0/16 with gateway 172.17.0.1, but bip is 172.17.0.9/16"),
        ({"bip6": "fd01::1/64"}, "have addresses of fd00::/64 with gateway fd00::1, but bip6 is fd01::1/64"),
        ({"fixed_cidr_v6": "fd01::/64"}, "have addresses of fd00::/64 with gateway fd00::1, but fixed-cidr-v6 is fd01::/64"),
        ({"ipv6": False}, "have addresses of fd00::/64, but ipv6 is false"),
        ({"iptables": False}, "have published ports, which need firewall rules, but iptables is false"),
        ({"exec_root": "/else"}, "use exec-root /run/orlop, but exec-root is /else"),
        ({"data_root": "/else"}, "use data-root /var/lib/orlop, but data-root is /else"),
    ],
)
def test_reload_refuses_changes_that_affect_running_containers(
    containers: Callable[..., Living], fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        reload_constraints.check(*containers(*map(record, range(5))), changed(**fields))
    assert (
        f"5 running containers (c0, c1, c2 and 2 more) {text}: this setting cannot change while they run; restore the "
        in str(caught.value)
    )
    reload_constraints.check(*containers(), changed(**fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reload_constraints.runs, "monitor_lives", lambda _: False)
        reload_constraints.check(*containers(record(9)), changed(**fields))


def test_reload_cannot_remove_a_runtime_that_a_container_uses(containers: Callable[..., Living]) -> None:
    here = containers(record(1, runtime="own"), record(2))
    with pytest.raises(
        ConfigError, match=r"^1 running container \(c1\) use runtime own, but runtimes does not contain this name"
    ):
        reload_constraints.check(*here, FITTING)
    reload_constraints.check(*here, changed(runtimes={"own": RuntimeEntry(path="/x")}))


def test_iptables_can_be_disabled_if_running_containers_publish_no_ports(containers: Callable[..., Living]) -> None:
    reload_constraints.check(*containers(record(1, ports=()), record(2, rules=False)), changed(iptables=False))


def test_reload_without_live_restore_can_change_any_setting_except_a_runtime_in_use(
    containers: Callable[..., Living], tmp_path: Path
) -> None:
    """Without live-restore, no container survives the daemon, so settings of the next start may change.
    A reload applies `runtimes` immediately."""
    here = containers(record(1, runtime="own"), config=Config(exec_root=str(tmp_path)))
    reload_constraints.check(*here, Config(storage_driver="vfs", runtimes={"own": RuntimeEntry(path="/x")}))
    with pytest.raises(ConfigError, match=r"\(c1\) use runtime own, but runtimes does not contain this name"):
        reload_constraints.check(*here, Config())
    reload_constraints.check_at_start(*here)


# --- runtimes and storage -----------------------------------------------------------------------------------------------


def engine(tmp_path: Path, check_config: Callable[[Config], None] = lambda _: None) -> Any:
    config = Config(data_root=str(tmp_path), exec_root=str(tmp_path))
    return SimpleNamespace(
        config=config,
        loaded=Loaded(config.daemon),
        drivers=Drivers(config),
        index=ContainerIndex(),
        paths=ContainerPaths(str(tmp_path), str(tmp_path)),
        networks=SimpleNamespace(check_config=check_config),
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"storage_driver": "nosuch"}, 'cannot find storage driver "nosuch"'),
        ({"init": True}, "cannot use init: no init program found"),
        ({"init_path": "/no/init"}, "cannot use init-path: /no/init is not an executable"),
    ],
)
def test_reload_refuses_a_file_that_the_next_start_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], text: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    running = engine(tmp_path)
    reload.check(running, running.loaded)
    (problem,) = problems(msgspec.structs.replace(running.config, **fields))
    assert text in problem.text
    assert problem.keys == tuple(name.replace("_", "-") for name in fields)


def test_reload_that_fails_applies_nothing_and_notifies_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(config: Config) -> None:
        raise ZeroDivisionError("a bug")

    told: list[str] = []
    monkeypatch.setattr(systemd, "notify", told.append)
    parsed = parse(["--config-file", "/dev/null", "--data-root", str(tmp_path), "--exec-root", str(tmp_path)])
    daemon = Daemon(load_all(parsed, {}), parsed, 0)
    daemon._environ = {}
    service = EngineService(engine(tmp_path, broken))
    daemon._serving, daemon._events, daemon._services = True, cast("Any", object()), {"engine": service}
    before = daemon._loaded
    trio.run(daemon._reload)
    assert daemon._loaded is before
    assert service.engine.config.data_root == str(tmp_path)
    assert "the current one stays in use: cannot check it: ZeroDivisionError: a bug" in caplog.text
    assert told[0].startswith("RELOADING=1")
    assert told[1:] == ["READY=1\nSTATUS=serving; the last reload was refused, see the log"]


# --- orlop config show --------------------------------------------------------------------------------------------------

SHOWN = {
    "File": "/f",
    "Values": [{"Key": "mtu", "Value": 1400, "Origin": "/f:1"}, {"Key": "dns", "Value": [], "Origin": "default"}],
    "NeedsRestart": ["icc"],
    "Warnings": [],
}


def orlop(capfd: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        entry.main(list(argv))
    captured = capfd.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_orlop_prints_the_result_of_a_reload(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RecordedDaemon(str(tmp_path / "d.sock")) as daemon:
        daemon.on("GET", "/orlop/config", answer(SHOWN))
        code, out, err = orlop(capfd, "-H", daemon.host, "config", "show", "--origin")
        assert (code, err) == (0, "Changed in the file; these keys need a restart of the daemon: icc\n")
        assert [line.split() for line in out.splitlines()] == [
            ["KEY", "VALUE", "ORIGIN"],
            ["mtu", "1400", "/f:1"],
            ["dns", "[]", "default"],
        ]
        assert "ORIGIN" not in orlop(capfd, "-H", daemon.host, "config", "show")[1]
        assert json.loads(orlop(capfd, "-H", daemon.host, "config", "show", "--format", "json")[1]) == SHOWN
    with RecordedDaemon(str(tmp_path / "e.sock")) as daemon:
        daemon.on("GET", "/orlop/config", answer({"message": "page not found"}, 404))
        code, _, err = orlop(capfd, "-H", daemon.host, "config", "show")
        assert (code, "it is not orlopd" in err) == (1, True)


def test_orlop_config_show_runs_orlopd_if_no_daemon_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "orlopd"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = --show-config=json ] && echo '{json.dumps(SHOWN)}'\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "orlop")])
    code, out, err = orlop(capfd, "-H", f"unix://{tmp_path}/none.sock", "config", "show")
    assert (code, "1400" in out) == (0, True)
    assert "orlopd starts with these values" in err
    assert orlop(capfd, "-H", "tcp://127.0.0.1:1", "config", "show")[0] == 1
