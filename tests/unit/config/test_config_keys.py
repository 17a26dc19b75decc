"""Keys of daemon.json that plugins declare: selected with the plugin, typed, checked, shown and reloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from orlop_kernel.config import Config, ConfigError, Keys, Loaded, Problem, help_of, load_all, parse, plan, show
from orlop_kernel.config.flags import STRING, Kind, flag
from orlop_kernel.config.keys import Schema
from orlop_kernel.config.values import key_value
from orlop_sdk import discovery
from orlop_sdk.base import ConfigBase


class Rule(ConfigBase, frozen=True, kw_only=True):
    name: str
    limit: int = 1


def sized(text: str) -> dict[str, int]:
    name, size = key_value(text)
    return {name: int(size)}


class Quota(Keys, frozen=True, kw_only=True):
    quota_dir: str = "/quota"
    quota_rules: tuple[Rule, ...] = ()
    quota_soft: bool = False
    quota_path: str = ""
    quota_grace: int = 7
    quota_sizes: dict[str, int] = msgspec.field(default_factory=dict)

    FLAGS: ClassVar = (
        flag("quota-dir", STRING, "Where", short="q"),
        flag("quota-size", Kind("size", sized), "How much", key="quota-sizes"),
        flag("quota-limit", STRING, "The older directory", key="quota-path"),
    )
    HELP: ClassVar = {"quota-rules": "What", "quota-soft": "How", "quota-path": "Old", "quota-grace": "How long"}
    HINTS: ClassVar = {"quotas": "quota-rules"}
    OLDER: ClassVar = {"quota-path": "quota-dir"}
    ZEROS: ClassVar = frozenset({"quota-grace"})
    BOTH: ClassVar = frozenset({"quota-sizes"})
    RELOADABLE: ClassVar = frozenset({"quota-rules"})

    def problems(self, config: Config) -> Iterator[Problem]:
        if self.quota_soft and config.debug:
            yield Problem("a soft quota cannot be debugged", ("quota-soft", "debug"))

    @classmethod
    def complete(cls, values: dict[str, Any], environ: Mapping[str, str], directory: str) -> Iterator[tuple[str, str]]:
        if directory and "quota-dir" in values:
            values["quota-dir"] = f"{directory}/{values['quota-dir']}"
        elif "QUOTA" in environ:
            values["quota-dir"] = environ["QUOTA"]
            yield "quota-dir", "environment QUOTA"


class Twin(Keys, frozen=True, kw_only=True):
    quota_dir: str = ""
    HELP: ClassVar = {"quota-dir": "The same"}


class Doubling(Keys, frozen=True, kw_only=True):
    other: str = ""
    FLAGS: ClassVar = (flag("quota-limit", STRING, "Another", key="other"),)


class Greedy(Keys, frozen=True, kw_only=True):
    hosts: tuple[str, ...] = ()
    HELP: ClassVar = {"hosts": "The kernel's"}


class Silent(Keys, frozen=True, kw_only=True):
    silent: str = ""


PLUGINS: dict[str, object] = {
    "quota": Quota,
    "doubling": Doubling,
    "twin": Twin,
    "greedy": Greedy,
    "silent": Silent,
    "wrong": dict,
}


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loaded]:
    """Loads a daemon.json with these plugins installed."""

    def find(kind: str, name: str) -> discovery.Factory:
        assert kind == "keys"
        return discovery.Factory(kind, name, PLUGINS[name], 1, "mine", "1")  # type: ignore[arg-type]

    monkeypatch.setattr(discovery, "installed", lambda kind: sorted(PLUGINS))
    monkeypatch.setattr(discovery, "find", find)
    path = tmp_path / "daemon.json"

    def load(*services: str, argv: tuple[str, ...] = (), environ: Mapping[str, str] | None = None, **values: Any) -> Loaded:
        keys = {key.replace("_", "-"): value for key, value in values.items()}
        path.write_text(json.dumps({"services": services, **keys}, indent=1))
        return load_all(parse(["--config-file", str(path), *argv]), environ or {})

    return load


def refused(loaded: Callable[..., Loaded], *services: str, **values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(*services, **values)
    return str(caught.value)


def test_each_plugin_has_a_typed_struct_for_its_configuration(loaded: Callable[..., Loaded]) -> None:
    config = loaded("quota", quota_rules=[{"name": "a", "limit": 5}]).config
    assert config.part(Quota).quota_rules == (Rule(name="a", limit=5),)
    assert config.items()["quota-dir"] == "/quota"
    assert Config().part(Quota) == Quota(), "of a plugin that is not selected: its defaults"


def test_error_for_a_wrong_type_shows_file_and_line_and_key(loaded: Callable[..., Loaded], tmp_path: Path) -> None:
    said = refused(loaded, "quota", quota_soft="yes")
    assert f"{tmp_path}/daemon.json: wrong type: quota-soft: yes: expected true or false, got a string (line 5)" in said


def test_problem_that_a_plugin_reports_is_shown_with_file_and_line(loaded: Callable[..., Loaded], tmp_path: Path) -> None:
    said = refused(loaded, "quota", quota_soft=True, debug=True)
    assert f"a soft quota cannot be debugged [quota-soft: {tmp_path}/daemon.json:5, debug: {tmp_path}/daemon.json:6]" in said


def test_key_that_no_plugin_declares_is_an_error(loaded: Callable[..., Loaded]) -> None:
    assert 'quota-dri (line 5; did you mean "quota-dir"?)' in refused(loaded, "quota", quota_dri="/x")


def test_error_for_a_key_of_an_unselected_plugin_shows_the_plugins_name(loaded: Callable[..., Loaded]) -> None:
    said = refused(loaded, quota_dir="/x")
    assert 'quota-dir (line 3; a key of the plugin "quota", which is not in services, front-ends or guards)' in said


def test_error_for_a_flag_of_an_unselected_plugin_shows_the_plugins_name(loaded: Callable[..., Loaded]) -> None:
    said = refused(loaded, argv=("--quota-dir", "/x", "--debug"))
    assert said.startswith(
        'unknown flag: --quota-dir (a flag of the plugin "quota", which is not in services, front-ends or guards)'
    )


def test_reload_cannot_deselect_a_plugin_whose_flag_is_set(loaded: Callable[..., Loaded], tmp_path: Path) -> None:
    loaded("quota")
    parsed = parse(["--config-file", str(tmp_path / "daemon.json"), "--quota-dir", "/x"])
    loaded()
    with pytest.raises(ConfigError, match="--quota-dir: no plugin in services, front-ends or guards declares this"):
        load_all(parsed._replace(read=None), {})


def test_configuration_file_that_is_a_pipe_is_read_only_once(tmp_path: Path) -> None:
    """`orlopd --config-file <(make-config)` passes a pipe."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(path.write_text, '{"debug": true}')
        assert load_all(parse(["--config-file", str(path)]), {}).config.debug
        writing.result(5)


def test_plugin_can_declare_flags_for_its_keys(loaded: Callable[..., Loaded], tmp_path: Path) -> None:
    for argv in (("--quota-dir", "/x"), ("--quota-dir=/x",), ("-q", "/x"), ("-Dq/x",)):
        found = loaded("quota", argv=argv)
        assert (found.config.part(Quota).quota_dir, found.origin("quota-dir")) == ("/x", "--quota-dir")
    path = str(tmp_path / "daemon.json")
    assert "  -q, --quota-dir string" in help_of(["--config-file", path])
    assert "quota" not in help_of(["--config-file", "/dev/null"])
    said = refused(loaded, "quota", argv=("--quota-dir", "/x"), quota_dir="/y")
    assert "quota-dir: (from flag: /x, from file: /y) [--quota-dir and line 5]" in said
    assert "invalid argument" in refused(loaded, "quota", argv=("--quota-size", "many"))


def test_maps_from_flags_and_file_are_merged(loaded: Callable[..., Loaded]) -> None:
    found = loaded("quota", argv=("--quota-size", "a=1", "--quota-size", "b=2"), quota_sizes={"b": 5, "c": 3})
    assert found.config.part(Quota).quota_sizes == {"a": 1, "b": 2, "c": 3}


def test_plugin_can_declare_old_key_names_and_keys_that_accept_zero_and_hints(loaded: Callable[..., Loaded]) -> None:
    """A plugin's keys can have former names, the value 0, and advice for similar unknown keys."""
    assert "quota-path and quota-dir are the same setting" in refused(loaded, "quota", quota_dir="/x", quota_path="/y")
    said = refused(loaded, "quota", argv=("--quota-dir", "/x"), quota_path="/y")
    assert "quota-path: (from flag: /x, from file: /y)" in said
    assert loaded("quota", quota_grace=0).config.part(Quota).quota_grace == 0
    assert loaded("quota", quota_dir="").config.part(Quota).quota_dir == "/quota"
    assert 'quotas (line 5; did you mean "quota-rules"?)' in refused(loaded, "quota", quotas=[])


@pytest.mark.parametrize("argv", [["--pidfile", "--config-file=/x"], ["--debug", "--config-file", "/x", "--"]])
def test_config_file_flag_that_may_be_the_value_of_another_flag_is_refused(argv: list[str]) -> None:
    """Before the file is read, it is unknown which flags take the next word as their value."""
    if "--" in argv:
        assert parse(argv).config_file == "/x"
    else:
        with pytest.raises(ConfigError, match="cannot tell which file --config-file names"):
            parse(argv)


@pytest.mark.parametrize(
    ("services", "text"),
    [
        (("quota", "twin"), 'the key quota-dir is declared by both the plugin "quota" and the plugin "twin"'),
        (("quota", "doubling"), 'the flag --quota-limit of the plugin "doubling" is also declared by another plugin'),
        (("greedy",), 'the key hosts is declared by both the kernel and the plugin "greedy"'),
        (("silent",), 'cannot use the keys of the plugin "silent": HELP lacks silent'),
        (("wrong",), "cannot use the keys of the plugin \"wrong\": <class 'dict'> is not a subclass of"),
    ],
)
def test_plugin_with_an_invalid_declaration_of_keys_is_refused(
    loaded: Callable[..., Loaded], services: tuple[str, ...], text: str
) -> None:
    assert text in refused(loaded, *services)


def test_plugin_can_set_values_from_environment_variables_and_the_working_directory(loaded: Callable[..., Loaded]) -> None:
    found = loaded("quota", environ={"QUOTA": "/env"})
    assert (found.config.part(Quota).quota_dir, found.origin("quota-dir")) == ("/env", "environment QUOTA")
    values = {"quota-dir": "here"}
    assert list(Quota.complete(values, {}, "/base")) == []
    assert Schema({"quota": Quota}).convert(values).part(Quota).quota_dir == "/base/here"


def test_reload_applies_reloadable_keys_and_lists_keys_that_need_a_restart(loaded: Callable[..., Loaded]) -> None:
    running = loaded("quota")
    found = plan(running, loaded("quota", quota_rules=[{"name": "a"}], quota_dir="/y", debug=True))
    assert (set(found.applied), found.needs_restart) == ({"debug", "quota-rules"}, ("quota-dir",))
    assert found.config.part(Quota) == Quota(quota_rules=(Rule(name="a"),))
    assert found.config.debug
    gone = plan(running, loaded())
    assert {"services", "quota-rules", "quota-dir"} <= set(gone.needs_restart)
    assert gone.config.part(Quota) == Quota(), "a plugin that runs keeps its keys"


def test_shown_configuration_has_the_plugin_of_each_key(loaded: Callable[..., Loaded]) -> None:
    shown = {each["Key"]: each for each in show.document(loaded("quota"))["Values"]}
    assert shown["quota-soft"] == {
        "Key": "quota-soft",
        "Value": False,
        "Origin": "default",
        "Plugin": "quota",
        "Help": "How",
    }
    assert "Plugin" not in shown["hosts"]
