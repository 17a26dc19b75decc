"""The configuration as a whole: files, flags, precedence, and error messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

import orlop_kernel.config as kernel
from orlop_api_docker.keys import ApiKeys
from orlop_api_docker.versions import API_VERSION
from orlop_engine import reload
from orlop_engine.config import Config, EngineKeys, Proxies, RuntimeEntry
from orlop_engine.config.policy import IGNORED, REFUSED, RELOADABLE, SILENT
from orlop_guard_listeners.keys import AccessKeys
from orlop_kernel.config import (
    ConfigError,
    ReloadPlan,
    file,
    help_of,
    load,
    load_all,
    parse,
    plan,
    show,
    without_password,
)
from orlop_kernel.config.file import key_lines
from orlop_kernel.config.keys import Schema
from orlop_kernel.config.policy import HINTS


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def make(content: Any) -> str:
        path = tmp_path / "daemon.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return str(path)

    return make


def configured(path: str, *argv: str, **environ: str) -> Config:
    """The engine's part of the configuration, which has almost all keys."""
    return Config.of(load(["--config-file", path, *argv], environ))


def complaint(path: str, *argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        configured(path, *argv)
    return str(caught.value)


def test_empty_daemon_json_gives_the_default_configuration(write: Any) -> None:
    for content in (b"", b" \n", b"{}", b"\xef\xbb\xbf{}"):
        found = configured(write(content)).daemon
        assert structs.replace(found, parts={}) == kernel.Config()
        assert all(part == type(part)() for part in found.parts.values())


def test_daemon_json_in_utf16_is_read(write: Any) -> None:
    assert configured(write('{"mtu": 1400}'.encode("utf-16"))).mtu == 1400


def test_values_of_daemon_json_are_converted_to_the_types_of_their_fields(write: Any) -> None:
    config = configured(
        write(
            {
                "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64, "Soft": 32}},
                "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
                "runtimes": {"crun": {"path": "/usr/bin/crun", "runtimeArgs": ["--debug"]}},
                "default-runtime": "crun",
                "log-opts": {"max-size": "10m"},
                "hosts": ["unix:///x"],
                "icc": False,
            }
        )
    )
    assert config.default_ulimits["nofile"].soft == 32
    assert config.default_address_pools[0].size == 24
    assert config.runtimes["crun"].runtime_args == ("--debug",)
    assert config.daemon.effective_hosts == ("unix:///x",)
    assert not config.icc


def test_zero_in_daemon_json_leaves_a_key_unset_except_stop_timeout_and_booleans(write: Any) -> None:
    """As in dockerd, 0 or "" means that a key is not set. Exceptions are `default-stop-timeout` and keys with a boolean
    value."""
    config = configured(
        write({"mtu": 0, "log-level": "", "shutdown-timeout": 0, "default-stop-timeout": 0, "iptables": False, "dns": None})
    )
    assert (config.mtu, config.daemon.log_level, config.shutdown_timeout) == (1500, "info", 15)
    assert config.default_stop_timeout == 0
    assert not config.iptables


def test_orlopd_parses_flags_by_the_rules_of_dockerd() -> None:
    values = parse(
        ["-DH", "unix:///a", "-Hunix:///b", "-H=unix:///c", "--iptables=false", "--icc=f", "-l", "warn", "--mtu=0x5dc"]
    ).values
    assert values == {
        "debug": True,
        "hosts": ["unix:///a", "unix:///b", "unix:///c"],
        "iptables": False,
        "icc": False,
        "log-level": "warn",
        "mtu": 1500,
    }


def test_repeated_flags_with_key_and_value_are_merged() -> None:
    values = parse(
        [
            *("--log-opt", "max-size=1m", "--log-opt", "tag=a=b", "--default-ulimit", "nofile=5"),
            *("--default-network-opt", "bridge=x=1", "--default-network-opt", "bridge=y=2"),
            *("--default-address-pool", "base=10.0.0.0/8,size=24"),
        ]
    ).values
    assert values["log-opts"] == {"max-size": "1m", "tag": "a=b"}
    assert values["default-network-opts"] == {"bridge": {"x": "1", "y": "2"}}
    assert values["default-ulimits"] == {"nofile": {"Name": "nofile", "Soft": 5, "Hard": 5}}
    assert values["default-address-pools"] == [{"base": "10.0.0.0/8", "size": 24}]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--dbug"], "unknown flag: --dbug (did you mean --debug?)"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["--mtu"], "flag needs an argument: --mtu"),
        (["--mtu", "big"], 'invalid argument "big" for --mtu: "big" is not a whole number'),
        (["--icc=no"], 'invalid argument "no" for --icc: "no" is neither true nor false'),
        (["--log-opt", "x"], '"x" is not of the form key=value'),
        (["--default-ulimit", "nofile=9:5"], "ulimit soft limit must be less than or equal to hard limit: 9 > 5"),
        (["serve"], '"orlopd" accepts no arguments: serve'),
    ],
)
def test_error_for_an_invalid_flag_shows_the_reason(argv: list[str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    assert text in str(caught.value)


def test_error_for_an_unknown_key_suggests_a_similar_known_key(write: Any) -> None:
    path = write({"debgu": True, "log-opt": {}, "zzzzzzzz": 1})
    assert complaint(path) == (
        f"unable to configure the Docker daemon with file {path}: the following directives don't match any configuration "
        'option: debgu (line 1; did you mean "debug"?), log-opt (line 1; did you mean "log-opts"?), zzzzzzzz (line 1)'
    )


def test_error_for_invalid_json_shows_line_and_column(write: Any) -> None:
    path = write(b'{\n  "debug": true,\n  "mtu" 5\n}')
    assert f"with file {path}: invalid JSON: line 3, column 9: Expecting ':' delimiter" in complaint(path)
    assert "an object is expected, not list" in complaint(write([]))
    assert "not UTF-8" in complaint(write(b'{"x": "\xff"}'))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"mtu": "abc"}, "mtu: abc: expected a whole number, got a string (line 1)"),
        ({"debug": 1}, "debug: 1: expected true or false, got a whole number"),
        ({"log-opts": {"max-size": "1m", "max-file": 3}}, "log-opts.max-file: 3: expected a string, got a whole number"),
        ({"hosts": "unix:///x"}, "hosts: unix:///x: expected a list, got a string"),
        ({"default-shm-size": 64}, "default-shm-size: 64: expected a string, got a whole number"),
    ],
)
def test_error_for_a_wrong_type_shows_key_and_value_and_line(write: Any, content: Any, text: str) -> None:
    assert text in complaint(write(content))


def test_missing_daemon_json_is_an_error_only_if_its_path_was_given(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    assert complaint(missing) == f"unable to configure the Docker daemon with file {missing}: No such file or directory"


def test_key_set_by_both_flag_and_file_is_refused(write: Any) -> None:
    path = write({"debug": True, "hosts": ["unix:///a"], "runtimes": {"a": {"path": "/a"}}})
    text = complaint(path, "--debug=false", "-H", "unix:///b")
    assert "the following directives are specified both as a flag and in the configuration file: " in text
    assert "debug: (from flag: false, from file: true)" in text
    assert "hosts: (from flag: unix:///b, from file: [unix:///a])" in text
    assert sorted(configured(write({"runtimes": {"a": {"path": "/a"}}}), "--add-runtime", "b=/b").runtimes) == ["a", "b"]


def test_error_messages_do_not_show_passwords_of_proxies(write: Any) -> None:
    path = write({"proxies": {"http-proxy": "http://me:secret@p"}})
    text = complaint(path, "--http-proxy", "http://you:hidden@q")
    assert "secret" not in text
    assert "hidden" not in text
    assert "http://xxxxx:xxxxx@p" in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:p@h:1/x@y", "http://xxxxx:xxxxx@h:1/x@y"),
        ("http://u:p@x@h", "http://xxxxx:xxxxx@h"),
        ("from http://u:p@x@h to http://v:q@i", "from http://xxxxx:xxxxx@h to http://xxxxx:xxxxx@i"),
        ("http://h:1/x@y", "http://h:1/x@y"),
        ("", ""),
    ],
)
def test_proxy_password_with_an_at_sign_is_not_shown(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"log-level": "loud"}, "invalid logging level: loud"),
        ({"labels": ["a=1", "a=2"]}, "conflict labels for a="),
        ({"labels": ["a"]}, "bad attribute format: a"),
        ({"mtu": -1}, "invalid default MTU: -1"),
        ({"max-concurrent-downloads": -1}, "invalid max concurrent downloads: -1"),
        ({"max-download-attempts": -1}, "invalid max download attempts: -1"),
        ({"max-upload-attempts": -1}, "invalid max upload attempts: -1"),
        ({"image-compression": "xz"}, 'invalid image-compression "xz": gzip or zstd is needed'),
        ({"dns": ["nine"]}, 'invalid dns "nine"'),
        ({"dns-search": ["a b"]}, "a b is not a valid domain"),
        ({"hosts": ["http://x"]}, "unsupported protocol: http"),
        ({"hosts": ["tcp://1.2.3.4:99999"]}, "invalid port 99999"),
        ({"registry-mirrors": ["https://u@x"]}, "invalid mirror"),
        ({"insecure-registries": ["http://x"]}, "insecure registry http://x should not contain '://'"),
        ({"exec-opts": ["native.cgroupdriver=x"]}, "invalid option for native.cgroupdriver: x"),
        ({"bip": "172.17.0.1"}, "a prefix length is needed"),
        ({"bip": "172.17.0.1/16", "bridge": "br0"}, "You specified -b & --bip"),
        ({"mtu": 67}, "invalid default MTU: 67 (at least 68)"),
        ({"mtu": 1279, "ipv6": True}, "invalid default MTU: 1279 (IPv6 needs at least 1280)"),
        ({"fixed-cidr": "fd00::/64"}, 'invalid fixed-cidr "fd00::/64": not of IPv4'),
        ({"default-gateway-v6": "10.0.0.1"}, 'invalid default-gateway-v6 "10.0.0.1": not of IPv6'),
        ({"icc": False, "iptables": False}, "You specified --iptables=false with --icc=false"),
        ({"runtimes": {"runc": {"path": "/x"}}}, "runtime name 'runc' is reserved"),
        ({"default-runtime": "nope"}, "specified default runtime 'nope' does not exist: known runtimes are: "),
        ({"default-address-pools": [{"base": "10.0.0.0/24", "size": 8}]}, "size 8 does not fit into 10.0.0.0/24"),
        ({"default-shm-size": "much"}, "invalid size: 'much'"),
        ({"exec-opts": ["native.cgroupdriver=systemd"], "cgroup-parent": "/x"}, 'a valid slice named as "xxx.slice"'),
        ({"tlsverify": True}, "invalid TLS configuration"),
        ({"min-api-version": "1.12"}, "minimum supported API version is 1.24"),
        ({"min-api-version": "1.99"}, f"maximum supported API version is {API_VERSION}"),
        ({"min-api-version": "v1.40"}, 'API version must be provided without "v" prefix'),
        ({"seccomp-profile": "here.json"}, "builtin, unconfined or an absolute path is needed"),
        ({"default-gateway": "gw"}, 'invalid default-gateway "gw"'),
        ({"data-root": "here"}, "an absolute path is needed"),
    ],
)
def test_invalid_values_in_the_configuration_are_refused(write: Any, content: Any, text: str) -> None:
    found = complaint(write(content))
    assert found.startswith("merged configuration validation from file and command line flags failed: ")
    assert text in found


def test_warning_is_given_for_each_ignored_key(write: Any) -> None:
    loaded = load_all(parse(["--config-file", write({"userland-proxy": False, "containerd": "/run/c.sock"})]), {})
    assert loaded.warnings == (
        "containerd is ignored: Orlop does not use containerd",
        "userland-proxy is ignored: the container's monitor always forwards published ports on loopback",
    )


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["-H", "fd://", "-G", "crew"], True),
        (["-H", "fd://", "-H", "unix:///x", "-G", "crew"], False),
        (["-H", "fd://"], False),
        (["-G", "crew"], False),
    ],
)
def test_group_without_a_unix_socket_gives_a_warning(argv: list[str], told: bool) -> None:
    found = load_all(parse(["--config-file", "/dev/null", *argv]), {}).warnings
    assert len(found) == told
    assert all("systemd makes the socket; set SocketGroup=crew" in each for each in found)


def test_environment_variable_is_used_if_neither_file_nor_flag_sets_a_value(write: Any) -> None:
    path = write({"proxies": {"http-proxy": "http://file"}})
    config = configured(path, HTTP_PROXY="http://env", no_proxy="a,b", DOCKER_DRIVER="vfs")
    assert (config.proxies.http_proxy, config.proxies.no_proxy) == ("http://file", "a,b")
    assert config.storage_driver == "vfs"


def test_relative_paths_are_relative_to_the_working_directory_of_the_start(tmp_path: Path) -> None:
    """After the start, the daemon changes to another directory. A reload still uses the directory of the start."""
    values = {
        "init-path": "bin/init",
        "cdi-spec-dirs": ["cdi"],
        "runtimes": {"mine": {"path": "bin/mine"}, "other": {"path": "crun"}},
        "listeners": [{"host": "tcp://127.0.0.1:1", "role": "full", "tlscacert": "other.pem"}],
    }
    (tmp_path / "daemon.json").write_text(json.dumps(values))
    argv = "--tlsverify --tlscacert ca.pem --tlscert ./cert.pem --tlskey /k.pem -p o.pid --config-file daemon.json"
    config = load_all(parse(argv.split(), str(tmp_path)), {}).config
    engine = Config.of(config)
    assert (config.tlscacert, config.tlskey) == (f"{tmp_path}/ca.pem", "/k.pem")
    assert (config.tlscert, config.pidfile) == (f"{tmp_path}/./cert.pem", f"{tmp_path}/o.pid")
    assert (engine.init_path, engine.cdi_spec_dirs) == (f"{tmp_path}/bin/init", (f"{tmp_path}/cdi",))
    assert [each.path for each in engine.runtimes.values()] == [f"{tmp_path}/bin/mine", "crun"]
    assert config.listeners[0].tlscacert == f"{tmp_path}/other.pem"


def test_names_of_bridge_and_cgroup_depend_on_the_data_root() -> None:
    first, second = Config(data_root="/srv/a"), Config(data_root="/srv/b")
    assert Config().instance == ""
    assert Config().bridge_name == "orlop0"
    assert first.instance != second.instance
    assert len(first.bridge_name) <= 15
    assert first.effective_cgroup_parent != second.effective_cgroup_parent
    assert first.instance == Config(data_root="/srv//x/../a").instance
    assert Config(bridge="none").bridge_name == ""
    assert kernel.Config(exec_root="/x").pid_path == "/x/orlop.pid"
    assert kernel.Config().pid_path == "/run/orlop.pid"


def test_storage_driver_gets_only_the_options_with_its_name() -> None:
    config = Config(storage_opts=("overlay2.size=10G", "vfs.x=1"))
    assert config.storage_options("overlay2") == (("size", "10G"),)


def test_tables_of_keys_and_flags_are_consistent() -> None:
    for flag in FLAGS.values():
        key = flag.key.partition(".")[0]
        assert not key or key in KEYS, flag
    for table in (IGNORED, REFUSED, RELOADABLE, SILENT):
        assert set(table) <= KEYS
    assert not {*HINTS, *EngineKeys.HINTS} & KEYS
    assert not REFUSED.keys() & IGNORED.keys()
    assert not (REFUSED.keys() | IGNORED.keys()) & RELOADABLE


def test_help_shows_every_flag_that_is_not_hidden() -> None:
    text = help_of([])
    for flag in FLAGS.values():
        shown = any(f"--{flag.name}{kind} " in text for kind in (f" {flag.kind.name}", "[=json]", " "))
        assert shown != flag.hidden, flag.name


KEYS, FLAGS = Schema.select({}).owners.keys(), Schema.select({}).flags


@given(
    st.dictionaries(st.sampled_from(sorted(KEYS)), st.one_of(st.integers(), st.text(), st.booleans(), st.lists(st.text())))
)
def test_any_json_gives_a_valid_configuration_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("any") / "daemon.json"
    path.write_text(json.dumps(content))
    try:
        configured(str(path))
    except ConfigError as error:
        assert error.problems
        assert all(error.problems)


# --- errors and their places --------------------------------------------------------------------------------------------


def test_every_problem_in_daemon_json_is_reported_with_its_line(write: Any) -> None:
    path = write(
        b"""{
  "debgu": true,
  "debug": "yes",
  "mtu": -1,
  "labels": ["a"],
  "runtimes": {
    "fine": {"path": "/x"},
    "odd": {"pth": "/x"}
  },
  "default-runtime": "odd"
}"""
    )
    with pytest.raises(ConfigError) as caught:
        configured(path, "--log-level", "loud", "--label", "b=1")
    file = f"unable to configure the Docker daemon with file {path}: "
    merged = "merged configuration validation from file and command line flags failed: "
    assert list(caught.value.problems) == [
        file + 'the following directives don\'t match any configuration option: debgu (line 2; did you mean "debug"?)',
        file
        + "the following directives are specified both as a flag and in the configuration file: "
        + "labels: (from flag: b=1, from file: [a]) [--label and line 5]",
        file + "wrong type: debug: yes: expected true or false, got a string (line 3)",
        file + 'wrong type: runtimes.odd: {"pth":"/x"}: Object contains unknown field `pth` (line 8)',
        merged
        + "invalid logging level: loud (one of panic, fatal, error, warn, info, debug, trace) [log-level: --log-level]",
        merged + f"invalid default MTU: -1 [mtu: {path}:4]",
    ]


def test_repeated_key_gives_a_warning_and_the_last_value_is_used(write: Any) -> None:
    loaded = load_all(parse(["--config-file", write(b'{\n"mtu": 1400,\n"mtu": 1300\n}')]), {})
    assert Config.of(loaded.config).mtu == 1300
    assert loaded.warnings == ("mtu is set on line 2 and again on line 3: the last value is used",)
    assert loaded.origin("mtu").endswith("daemon.json:3")


def test_line_number_of_a_key_is_found_although_the_word_occurs_elsewhere() -> None:
    """The same word occurs in a value and in another object."""
    text = '{\n "log-opts": {"mtu": "1", "x": "\\"mtu\\": {"},\n "labels": ["mtu"], "mtu":\n 5}'
    assert dict(key_lines(text)) == {"log-opts": 2, "log-opts.mtu": 2, "log-opts.x": 2, "labels": 3, "mtu": 3}


def test_origin_of_every_value_is_recorded(write: Any) -> None:
    path = write(
        b'{\n"mtu": 1400,\n"debug": true,\n"proxies": {"no-proxy": "x"}, "dns": null,\n"runtimes": {"a": {"path": "/a"}}}'
    )
    argv = ["--config-file", path, "--icc=false", "--http-proxy", "http://p", "--add-runtime", "b=/b"]
    environ = {"HTTPS_PROXY": "http://s", "DOCKER_DRIVER": "vfs", "DOCKER_MIN_API_VERSION": "1.40"}
    loaded = load_all(parse(argv), environ)
    assert loaded.origins == {
        "mtu": f"{path}:2",
        "debug": f"{path}:3",
        "proxies": f"{path}:4, --http-proxy, environment HTTPS_PROXY",
        "runtimes": f"{path}:5, --add-runtime",
        "icc": "--icc",
        "storage-driver": "environment DOCKER_DRIVER",
        "min-api-version": "environment DOCKER_MIN_API_VERSION",
    }
    assert loaded.origin("dns") == "default"
    assert loaded.config.part(ApiKeys).min_api_version == "1.40"


def test_dockers_daemon_json_is_read_if_orlops_file_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, dockers = tmp_path / "ours.json", tmp_path / "dockers.json"
    monkeypatch.setattr(file, "DEFAULT_FILES", (str(ours), str(dockers)))
    assert load_all(parse([]), {}).file == ""
    dockers.write_text('{"mtu": 1400}')
    loaded = load_all(parse([]), {})
    assert (Config.of(loaded.config).mtu, loaded.origin("mtu")) == (1400, f"{dockers}:1 (no {ours})")
    ours.write_text('{"mtu": 1300}')
    loaded = load_all(parse([]), {})
    assert (Config.of(loaded.config).mtu, loaded.origin("mtu")) == (1300, f"{ours}:1")
    assert load_all(parse(["--config-file", str(dockers)]), {}).origin("mtu") == f"{dockers}:1"


def test_shown_configuration_hides_passwords(write: Any) -> None:
    path = write(
        {
            "proxies": {"http-proxy": "http://me:hidden@p"},
            "log-driver": "splunk",
            "log-opts": {"splunk-token": "hidden", "tag": "seen"},
            "labels": ["a=b"],
        }
    )
    found = show.document(load_all(parse(["--config-file", path]), {}), ["mtu"])
    values = {each["Key"]: each["Value"] for each in found["Values"]}
    assert values.keys() == KEYS
    assert values["proxies"]["http-proxy"] == "http://xxxxx:xxxxx@p"
    assert values["log-opts"] == {"splunk-token": "xxxxx", "tag": "seen"}
    assert found["NeedsRestart"] == ["mtu"]
    assert "hidden" not in json.dumps(found) + show.text(found)


def test_nri_opts_can_only_disable_nri(write: Any) -> None:
    assert configured(write({"nri-opts": {"enable": False}}))
    assert "cannot use nri-opts: NRI plugins are not supported" in complaint(write({"nri-opts": {"enable": True}}))


# --- reload -------------------------------------------------------------------------------------------------------------


def reloaded(write: Any, before: Any, after: Any) -> ReloadPlan:
    found = [load_all(parse(["--config-file", write(each)]), {}) for each in (before, after)]
    return plan(*found)


def test_reload_plan_lists_keys_that_apply_or_are_unchanged_or_need_a_restart(write: Any) -> None:
    found = reloaded(
        write,
        {"labels": ["a=1"], "mtu": 1400, "debug": True, "icc": False},
        {"labels": ["a=2"], "mtu": 1300, "log-driver": "local", "icc": False},
    )
    assert (found.applied, found.unchanged, found.needs_restart) == (("debug", "labels", "log-driver"), ("icc",), ("mtu",))
    assert (Config.of(found.config).labels, found.config.debug, Config.of(found.config).mtu) == (("a=2",), False, 1400)
    assert found.loaded.origin("debug") == "default"
    assert found.loaded.origin("mtu").endswith("daemon.json:1")


def test_reload_event_has_the_same_attributes_as_in_dockerd() -> None:
    """The values have the same form, too."""
    keys = EngineKeys(
        features={"b": True, "a": False},
        runtimes={"x": RuntimeEntry(path="/x"), "a": RuntimeEntry(path="/a")},
        log_opts={"splunk-token": "hidden"},
        proxies=Proxies(http_proxy="http://me:hidden@p"),
        default_cgroupns_mode="host",
    )
    found = reload.attributes(kernel.Config(parts={"engine": keys, "listeners": AccessKeys()}))
    dockers = {
        "allow-nondistributable-artifacts": "[]",
        "debug": "false",
        "default-cgroupns-mode": "host",
        "default-ipc-mode": "private",
        "default-runtime": "runc",
        "default-shm-size": "67108864",
        "features": "map[a:false b:true]",
        "insecure-registries": "[]",
        "labels": "[]",
        "live-restore": "false",
        "max-concurrent-downloads": "3",
        "max-concurrent-uploads": "5",
        "max-download-attempts": "5",
        "registry-mirrors": "[]",
        "runtimes": "a:/a x:/x",
        "shutdown-timeout": "15",
    }
    assert dockers.items() <= found.items()
    assert "hidden" not in json.dumps(found)
