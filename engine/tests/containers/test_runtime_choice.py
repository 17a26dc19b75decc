"""The choice of a driver for a runtime in daemon.json, and the drivers' directories."""

import pytest
import trio

from orlop_engine import config_check
from orlop_engine.config import Config, RuntimeEntry
from orlop_engine.config.validate import validate
from orlop_engine.drivers import Drivers
from orlop_sdk import DriverError, InvalidParameter
from orlop_sdk import discovery as plugins
from orlop_sdk.testing import FakeNetwork, FakeRuntime, FakeVolume


def config(tmp_path, **runtimes: RuntimeEntry) -> Config:
    return Config(exec_root=str(tmp_path), data_root=str(tmp_path), runtimes=runtimes)


def test_key_runtime_type_selects_the_runtime_driver(tmp_path, monkeypatch):
    asked = []

    def find(kind, name):
        asked.append((kind, name))
        return plugins.Factory(kind, name, FakeRuntime, 1, "mine", "1")

    monkeypatch.setattr(plugins, "find", find)
    drivers = Drivers(config(tmp_path, mine=RuntimeEntry(runtime_type="mine"), sh=RuntimeEntry(path="sh")))
    trio.run(drivers.runtime, "mine")
    trio.run(drivers.runtime, "sh")
    assert asked == [("runtime", "mine"), ("runtime", "runc")]


def test_error_about_an_unknown_runtime_driver_lists_the_installed_drivers(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "installed", lambda kind: ["runc"])
    drivers = Drivers(config(tmp_path, mine=RuntimeEntry(runtime_type="nobody-has-this")))
    with pytest.raises(InvalidParameter, match="installed runtime drivers are: runc"):
        trio.run(drivers.runtime, "mine")


def test_error_about_an_unknown_runtime_lists_the_configured_runtimes(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InvalidParameter, match=r"unknown or invalid runtime name: no \(configured: runc\)"):
        trio.run(Drivers(config(tmp_path)).runtime, "no")


def test_missing_runtime_program_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "find", lambda kind, name: plugins.Factory(kind, name, FakeRuntime, 1, "mine", "1"))
    drivers = Drivers(config(tmp_path, gone=RuntimeEntry(path="/no/such/program")))
    with pytest.raises(InvalidParameter, match="/no/such/program is not installed"):
        trio.run(drivers.runtime, "gone")


def test_failing_runtime_driver_is_reported(tmp_path, monkeypatch):
    def make(context):
        raise ValueError("no such mode")

    monkeypatch.setattr(plugins, "find", lambda kind, name: plugins.Factory(kind, name, make, 1, "mine", "1"))
    with pytest.raises(DriverError, match='cannot use runtime "runc": no such mode'):
        trio.run(Drivers(config(tmp_path)).runtime, "runc")


def test_containerd_shims_are_refused(tmp_path):
    (problem,) = validate(config(tmp_path, shim=RuntimeEntry(runtime_type="io.containerd.kata.v2")))
    assert "is a shim of containerd" in problem.text


@pytest.mark.parametrize(
    ("kind", "name", "place"),
    [
        ("volume", "local", "volumes"),
        ("volume", "mine", "volume-drivers/mine"),
        ("network", "bridge", "network"),
        ("network", "mine", "network-drivers/mine"),
        ("network", "null", "network-drivers/null"),
    ],
)
def test_each_driver_has_a_directory_of_its_own(tmp_path, monkeypatch, kind, name, place):
    contexts = []

    def make(context):
        contexts.append(context)
        return FakeVolume(context) if kind == "volume" else FakeNetwork()

    monkeypatch.setattr(plugins, "find", lambda kind, name: plugins.Factory(kind, name, make, 1, "mine", "1"))
    trio.run(getattr(Drivers(config(tmp_path)), kind), name)
    given = contexts[0].root if kind == "volume" else contexts[0].state_dir
    assert given == str(tmp_path / place)
    assert (tmp_path / place).is_dir()


def test_missing_runtime_driver_is_a_configuration_error_unless_containers_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(plugins, "installed", lambda kind: ["runc"])
    wanted = config(tmp_path, mine=RuntimeEntry(runtime_type="nobody-has-this"))

    def problems() -> list[str]:  # the default runtime's driver is missing, too, if this distribution is installed alone
        return [problem.text for problem in config_check._runtimes(wanted) if "runtime mine" in problem.text]

    (text,) = problems()
    assert "cannot use runtime mine: cannot find runtime driver" in text
    (tmp_path / "run" / "c").mkdir(parents=True)
    assert problems() == []
    assert "containers cannot use runtime mine: cannot find" in caplog.text


@pytest.mark.parametrize(
    ("installed", "runtimes", "chosen"),
    [
        (("crun", "runc"), {}, "crun"),
        (("runc",), {}, "runc"),
        ((), {}, "runc"),
        (("runc",), {"crun": RuntimeEntry(path="/opt/crun")}, "crun"),
    ],
)
def test_default_runtime_auto_means_the_first_installed_runtime(monkeypatch, installed, runtimes, chosen):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name in installed else None)
    own = Config(default_runtime="auto", runtimes=runtimes)
    assert own.effective_runtime == chosen
    assert chosen in own.all_runtimes()
    assert not list(validate(own))


def test_a_runtime_cannot_be_named_auto():
    own = Config(runtimes={"auto": RuntimeEntry(path="/opt/crun")})
    assert [problem.text for problem in validate(own)] == ["runtime name 'auto' is reserved"]
