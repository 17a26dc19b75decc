"""Options of create requests: security options, limits, mounts and devices; invalid ones are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from orlop_engine.config import Config
from orlop_engine.containers import apparmor_profile, devices, limits, mount_spec
from orlop_engine.networks import planning
from orlop_engine.networks.records import NetworkRecord
from orlop_engine.spec import apparmor, cdi, resources, security
from orlop_engine.spec.host import Host
from orlop_engine.types.containers import (
    BindOptions,
    Device,
    DeviceRequest,
    EndpointIPAMConfig,
    EndpointSettings,
    HostConfig,
    ImageOptions,
    MountSpec,
    Resources,
    ThrottleDevice,
    TmpfsOptions,
    Ulimit,
    VolumeOptions,
    WeightDevice,
)
from orlop_sdk import InvalidParameter, Mount

V1 = Host(
    cgroup_version=1,
    cpus=2,
    memory=1 << 30,
    hugetlb_sizes=(),
    thermal_paths=(),
    time_namespace=True,
    apparmor=True,
    cpuset_cpus="0-1",
)


# --- security options ---------------------------------------------------------------------------------------------------


def test_security_options_are_parsed_in_both_notations():
    found = security.parse(
        ["no-new-privileges:true", "apparmor:a", "apparmor=b", "label=disable", "label:type:x", "seccomp={}"]
    )
    assert found == security.Security(no_new_privileges=True, apparmor="b", labels=("disable", "type:x"), seccomp="{}")
    assert security.parse(["no-new-privileges=0"]).no_new_privileges is False
    assert security.parse([]).no_new_privileges is None  # None means the daemon's default


@pytest.mark.parametrize(
    ("option", "number"),
    [
        ("fly", 1),
        ("", 1),
        ("fly=high", 2),
        ("no-new-privileges=maybe", 2),
        ("systempaths=masked", 2),
        ("writable-cgroups=2", 2),
    ],
)
def test_unknown_security_options_are_refused(option, number):
    with pytest.raises(InvalidParameter) as raised:
        security.parse([option])
    assert str(raised.value) == f'invalid --security-opt {number}: "{option}"'


# --- AppArmor -----------------------------------------------------------------------------------------------------------


def test_default_apparmor_profile_includes_the_abstractions_that_the_host_has():
    full = apparmor.text(lambda name: True, "orlopd")
    assert full.startswith("# Docker's profile")
    assert '\nabi <abi/3.0>,\n#include <tunables/global>\nprofile "docker-default" flags=(' in full
    assert "#include <abstractions/base>" in full and 'signal (receive) peer="orlopd",' in full
    assert 'ptrace (trace,tracedby,read,readby) peer="docker-default",' in full and "deny mount," in full
    bare = apparmor.text(lambda name: False, "")
    assert "abi <" not in bare and "#include" not in bare and "@{PROC}=/proc/" in bare
    assert 'peer="unconfined"' in bare and "@NAME@" not in full + bare


@pytest.fixture
def apparmor_host(tmp_path, monkeypatch):
    """Files of a host with AppArmor: a list of loaded profiles, and a parser that adds to it."""
    loaded = tmp_path / "profiles"
    loaded.write_text("/usr/bin/man (enforce)\nmine (complain)\n")
    parser = tmp_path / "apparmor_parser"
    parser.write_text(
        f"#!/bin/sh\necho \"$@\" >>{tmp_path}/calls\ncat >{tmp_path}/text\necho 'docker-default (enforce)' >>{loaded}\n"
    )
    parser.chmod(0o755)
    monkeypatch.setattr(apparmor_profile, "facts", lambda: V1)
    monkeypatch.setattr(apparmor_profile, "_PROFILES", str(loaded))
    monkeypatch.setattr(apparmor_profile, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def _ensure(host: HostConfig) -> None:
    trio.run(apparmor_profile.ensure_profile, host)


def test_default_apparmor_profile_is_loaded_only_once(apparmor_host):
    assert apparmor_profile.profile(HostConfig()) == "docker-default" and apparmor_profile.has_default()
    _ensure(HostConfig())
    _ensure(HostConfig())
    assert (apparmor_host / "calls").read_text() == "-Kr\n"
    assert 'profile "docker-default"' in (apparmor_host / "text").read_text()


def test_apparmor_profile_that_is_not_loaded_is_refused(apparmor_host):
    _ensure(HostConfig(security_opt=["apparmor=mine"]))
    _ensure(HostConfig(privileged=True))
    _ensure(HostConfig(security_opt=["apparmor=unconfined"]))
    with pytest.raises(InvalidParameter, match='"ours": it is not loaded'):
        _ensure(HostConfig(security_opt=["apparmor=ours"]))
    assert not (apparmor_host / "calls").exists()


def test_default_apparmor_profile_is_not_used_without_apparmor_parser(apparmor_host):
    (apparmor_host / "apparmor_parser").unlink()
    assert apparmor_profile.profile(HostConfig()) == "" and not apparmor_profile.has_default()
    assert apparmor_profile.profile(HostConfig(security_opt=["apparmor=mine"])) == "mine"


# --- limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpuset_cpus": "0-9"}, "Requested CPUs are not available - requested 0-9, available: 0-1"),
        ({"cpuset_cpus": "x"}, "Invalid value x for cpuset cpus: invalid format: x"),
        ({"cpuset_cpus": "0-99999999999"}, "Invalid value 0-99999999999 for cpuset cpus"),
        ({"cpuset_mems": "3"}, "Requested memory nodes are not available - requested 3, available: 0"),
        ({"memory_reservation": 1 << 20}, "Minimum memory reservation allowed is 6MB"),
        ({"cpu_realtime_period": 10, "cpu_realtime_runtime": 20}, "cannot be higher than"),
        ({"blkio_weight_device": [WeightDevice("/dev/x", 5)]}, "Range of blkio weight"),
        ({"io_maximum_iops": 5}, "linux does not support configuration of maximum IOPs"),
        ({"io_maximum_bandwidth": 5}, "linux does not support configuration of maximum bandwidth"),
        ({"ulimits": [Ulimit("fly", 1, 1)]}, "invalid ulimit type: fly"),
        ({"ulimits": [Ulimit("nofile", hard=1, soft=5)]}, "soft limit must be less than or equal to hard limit"),
        ({"ulimits": [Ulimit("nofile", hard=1, soft=-1)]}, "soft limit must be less than or equal to hard limit"),
        ({"devices": [Device("/dev/null", "/dev/x", "rwx")]}, "invalid device mode: rwx"),
    ],
)
def test_invalid_resource_limits_are_refused(given, message):
    with pytest.raises(InvalidParameter, match=message):
        limits.check(Resources(**given), V1)


def test_unsupported_limits_are_discarded_with_a_warning():
    old = Host(**{name: getattr(V1, name) for name in V1.__struct_fields__} | {"blkio_weight": False, "swap_limit": False})
    given = Resources(
        memory=8 << 20,
        blkio_weight=500,
        blkio_weight_device=[WeightDevice("/dev/x", 200)],
        cpu_count=1,
        cpu_percent=5,
        kernel_memory=1 << 20,
        oom_kill_disable=True,
    )
    warnings = limits.check(given, old)
    assert len(warnings) == 6 and all("discarded" in text or "without swap" in text for text in warnings)
    assert (given.memory_swap, given.blkio_weight, given.blkio_weight_device, given.cpu_count) == (-1, 0, None, 0)
    assert not given.kernel_memory and given.oom_kill_disable
    assert "no memory limit is set" in limits.check(Resources(oom_kill_disable=True), V1)[0]


def test_valid_ulimits_cpusets_and_device_limits_are_accepted():
    limits.check(Resources(ulimits=[Ulimit("core", -1, -1), Ulimit("nofile", hard=-1, soft=5)], cpuset_cpus="0,1"), V1)
    limits.check(Resources(blkio_device_read_bps=[ThrottleDevice("/dev/x", 5)]), V1)


# --- mounts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "/a:/b:ro,rw",
        "/a:/b:z,Z",
        "/a:/b:shared,slave",
        "/a:/b:,",
        "/a:/b:nocopy",
        "a:/b:rshared",
        ":/b",
        "/a:/b:ro:x",
        "/a:/",
    ],
)
def test_invalid_binds_are_refused(text):
    with pytest.raises(InvalidParameter, match="invalid volume specification"):
        mount_spec.parse_bind(text)


def test_empty_mode_in_a_bind_string_is_ignored():
    assert mount_spec.parse_bind("/a:/b:") == mount_spec.parse_bind("/a:/b")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (MountSpec(type="fly", target="/x"), 'invalid mount config for type "fly": mount type unknown'),
        (
            MountSpec(type="bind", source="/", target="/x", volume_options=VolumeOptions()),
            "VolumeOptions must not be specified",
        ),
        (
            MountSpec(type="tmpfs", target="/x", bind_options=BindOptions()),
            "BindOptions must not be specified on mount type",
        ),
        (MountSpec(type="volume", target="/x", image_options=ImageOptions()), "ImageOptions must not be specified"),
        (
            MountSpec(type="bind", source="/", target="/x", bind_options=BindOptions(read_only_non_recursive=True)),
            "!ReadOnly",
        ),
        (MountSpec(type="bind", source="/", target="/x", consistency="strong"), "invalid consistency: strong"),
        (MountSpec(type="volume", target="/x", read_only=True), "must not set ReadOnly mode when using anonymous volumes"),
        (MountSpec(type="volume", target="/x", volume_options=VolumeOptions(subpath="a")), "must not set Subpath"),
        (MountSpec(type="image", target="/x"), "field Source must not be empty"),
        (
            MountSpec(type="image", source="i", target="/x", image_options=ImageOptions("../x")),
            "relative path within the image",
        ),
        (MountSpec(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(size_bytes=-1)), "invalid size"),
        (
            MountSpec(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(options=[["lowerdir", "/"]])),
            "invalid tmpfs option",
        ),
    ],
)
def test_invalid_mounts_are_refused(spec, message):
    with pytest.raises(InvalidParameter, match=message):
        mount_spec.parse_spec(spec)


def test_options_of_a_tmpfs_mount_override_default_options():
    made = mount_spec.parse_spec(
        MountSpec(type="tmpfs", target="/x", tmpfs_options=TmpfsOptions(size_bytes=4096, mode=0o700, options=[["exec"]]))
    )
    assert made.options == ("nosuid", "nodev", "size=4096", "mode=700", "exec")
    (made,) = mount_spec.plan(HostConfig(tmpfs={"/t": "ro,dev,uid=5"}), ())
    assert made.options == ("noexec", "nosuid", "ro", "dev", "uid=5") and not made.rw


@pytest.mark.parametrize("words", ["shared", "rslave", "private", "size=1m,rshared", "unbindable", "mand", "defaults"])
def test_valid_tmpfs_options_are_accepted(words: str) -> None:
    (made,) = mount_spec.plan(HostConfig(tmpfs={"/t": words}), ())
    assert made.options[3:] == tuple(words.split(","))


@pytest.mark.parametrize(("word", "name"), [("huge=always", "huge"), ("bind", "bind"), ("remount", "remount"), ("x", "x")])
def test_invalid_tmpfs_options_are_refused(word: str, name: str) -> None:
    with pytest.raises(InvalidParameter, match=f'invalid tmpfs option "{name}"'):
        mount_spec.plan(HostConfig(tmpfs={"/t": word}), ())


def test_device_path_without_a_device_node_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("")
    for path in (tmp_path, tmp_path / "sub/file"):
        with pytest.raises(InvalidParameter, match="not a device node"):
            resources.device_nodes([Device(path_on_host=str(path))])
    (tmp_path / "null").symlink_to("/dev/null")
    (node,) = resources.device_nodes([Device(path_on_host=str(tmp_path / "null"), path_in_container="/dev/x")])
    assert (node["path"], node["type"], node["major"], node["minor"]) == ("/dev/x", "c", 1, 3)


def test_read_only_bind_mounts_are_recursive_unless_recursion_is_switched_off():
    def words(spec: MountSpec, deep: bool) -> list[str]:
        return list(mount_spec.oci(mount_spec.parse_spec(spec), deep=deep)[0]["options"])

    plain = MountSpec(type="bind", source="/", target="/x", read_only=True)
    flat = MountSpec(
        type="bind", source="/", target="/x", read_only=True, bind_options=BindOptions(read_only_non_recursive=True)
    )
    assert words(plain, True) == ["rbind", "rprivate", "rro"] and words(plain, False) == ["rbind", "rprivate", "ro"]
    assert words(flat, True) == ["rbind", "rprivate", "ro"]
    (volume,) = mount_spec.oci(
        mount_spec.parse_bind("v1:/x:ro"), (Mount("nfs", ":/x", options=("addr=1.2.3.4",)),), deep=True
    )
    assert volume["options"] == ["addr=1.2.3.4", "ro"]


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["bogus"], "^invalid endpoint settings:\ninvalid link-local IP address: bogus$"),
        ([""], "^invalid endpoint settings:\ninvalid link-local IP address:$"),
        (["::"], "^invalid endpoint settings:\ninvalid link-local IP address: ::$"),
        (["fe80::1%eth0"], "invalid link-local IP address: fe80::1%eth0$"),
        (["169.254.1.1", "10.0.0.1"], "^invalid link local IP address: 10.0.0.1$"),
        (["fec0::1"], "^invalid link local IP address: fec0::1$"),
        (["169.254.1.1", "::ffff:169.254.1.1"], "a link-local IP address occurs twice$"),
        (["fe80::1"], "network n has no IPv6, which a link-local IPv6 address needs$"),
    ],
)
def test_invalid_link_local_addresses_are_refused(addresses, message):
    wanted = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=addresses))
    network = NetworkRecord(id="n", name="n", driver="bridge", created_ns=0)
    with pytest.raises(InvalidParameter, match=message):
        planning.check_settings(network, wanted)


def test_link_local_addresses_get_the_prefix_lengths_of_docker():
    wanted = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["::ffff:169.254.1.1", "fe80::1"]))
    network = NetworkRecord(id="n", name="n", driver="bridge", created_ns=0, ipv6=True)
    planning.check_settings(network, wanted)
    assert planning.link_local(wanted) == ("169.254.1.1/16", "fe80::1/64")


# --- devices ------------------------------------------------------------------------------------------------------------

YAML = """
cdiVersion: 0.6.0
kind: vendor.com/class
containerEdits:
  env: ["ALL=1"]
devices:
- name: one
  containerEdits:
    env: ["ONE=1", "PATH=/vendor"]
    additionalGids: [0, 44]
    deviceNodes:
    - {path: /dev/mynull, hostPath: /dev/null, permissions: r}
    - {path: /dev/given, type: c, major: 9, minor: 8, uid: 0}
    mounts: [{hostPath: /usr, containerPath: /vendor, options: [ro, nosuid]}]
    hooks: [{hookName: createContainer, path: /bin/true, args: ["true"], timeout: 5}]
    intelRdt: {closID: x, enableCMT: true}
- name: two
  containerEdits: {env: ["TWO=1"]}
"""


def _spec(uid: int = 1000):
    user = {"uid": uid, "gid": uid, "additionalGids": [uid]}
    process = {"env": ["PATH=/bin", "A=1"], "user": user}
    return {
        "process": process,
        "mounts": [{"destination": "/vendor"}],
        "linux": {"resources": {"devices": [{"allow": False}]}},
    }


def _request(*names: str):
    return DeviceRequest(driver="cdi", device_ids=list(names))


def test_container_edits_of_a_cdi_device_are_applied(tmp_path):
    (tmp_path / "v.yaml").write_text(YAML)
    spec = _spec()
    devices.inject(spec, [_request("vendor.com/class=one", "vendor.com/class=two")], [str(tmp_path)])
    assert spec["process"]["env"] == ["A=1", "ALL=1", "ONE=1", "PATH=/vendor", "TWO=1"]
    assert spec["process"]["user"]["additionalGids"] == [1000, 44]
    null, given = spec["linux"]["devices"]
    info = os.stat("/dev/null")
    assert (null["path"], null["type"], null["major"], null["minor"]) == ("/dev/mynull", "c", os.major(info.st_rdev), 3)
    assert null["uid"] == 1000  # the container's user must be able to open the device
    assert given == {"path": "/dev/given", "type": "c", "major": 9, "minor": 8, "uid": 0, "gid": 1000}
    assert spec["linux"]["resources"]["devices"][1:] == [
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
        {"allow": True, "type": "c", "major": 9, "minor": 8, "access": "rwm"},
    ]
    assert spec["mounts"] == [
        {"destination": "/vendor", "type": "bind", "source": "/usr", "options": ["bind", "ro", "nosuid"]}
    ]
    assert spec["hooks"] == {"createContainer": [{"path": "/bin/true", "args": ["true"], "env": [], "timeout": 5}]}
    assert spec["linux"]["intelRdt"] == {"closID": "x", "enableCMT": True}


def test_cdi_device_of_a_later_directory_is_used_and_a_duplicate_within_a_directory_is_refused(tmp_path):
    def write(path: str, value: str, device: str = "d") -> None:
        Path(tmp_path, path).parent.mkdir(exist_ok=True)
        text = '{"cdiVersion":"0.3.0","kind":"v.com/c","devices":[{"name":"%s","containerEdits":{"env":["X=%s"]}}]}'
        Path(tmp_path, path).write_text(text % (device, value))

    write("etc/a.json", "etc")
    write("run/a.json", "run")
    write("etc/b.json", "1", "twice")
    write("etc/c.json", "2", "twice")
    directories = [str(tmp_path / "etc"), str(tmp_path / "run"), str(tmp_path / "none")]
    spec = _spec()
    devices.inject(spec, [_request("v.com/c=d")], directories)
    assert spec["process"]["env"][-1] == "X=run"
    assert devices.discovered(directories) == ["v.com/c=d"]
    with pytest.raises(InvalidParameter, match=r"unresolvable CDI devices v[.]com/c=twice, v[.]com/c=none"):
        devices.inject(_spec(), [_request("v.com/c=twice", "v.com/c=none", "v.com/c=d")], directories)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{unclosed",
        "cdiVersion: 0.6.0\nkind: nonsense\ndevices: [{name: a, containerEdits: {}}]",
        "cdiVersion: 0.6.0\nkind: v.com/c\ndevices: [{name: a, containerEdits: {netDevices: [{hostInterfaceName: eth0}]}}]",
        "cdiVersion: 0.6.0\nkind: v.com/c\ndevices: [{name: a, containerEdits: {hooks: [{hookName: x, path: /x}]}}]",
        "a: &a [*a]",
        "!!python/object/apply:os.system ['touch /tmp/owned']",
    ],
)
def test_invalid_cdi_file_is_skipped(tmp_path, text, caplog):
    (tmp_path / "bad.yaml").write_text(text)
    (tmp_path / "good.yml").write_text(YAML)
    (tmp_path / "no.txt").write_text(YAML)
    devices.inject(_spec(), [_request("vendor.com/class=two")], [str(tmp_path)])
    assert "bad.yaml is ignored" in caplog.text


@pytest.mark.parametrize("off", [{"features": {"cdi": False}}, {"cdi_spec_dirs": ("",)}])
def test_cdi_devices_are_refused_when_cdi_is_off(tmp_path, off):
    (tmp_path / "good.yml").write_text(YAML)
    request = _request("vendor.com/class=two")
    devices.inject(_spec(), [request], Config(features={"cdi": True}, cdi_spec_dirs=(str(tmp_path),)).cdi_directories)
    with pytest.raises(InvalidParameter, match='could not select device driver "cdi"'):
        devices.inject(_spec(), [request], Config(**{"cdi_spec_dirs": (str(tmp_path),), **off}).cdi_directories)


@pytest.mark.parametrize("name", ["vendor.com/class", "vendor=a", "../x/y=z", "a/b=", "a/b/c=d", "v.com/c=a b"])
def test_unknown_cdi_devices_are_refused(name):
    with pytest.raises(InvalidParameter, match="invalid device name"):
        devices.inject(_spec(), [_request(name)], [])


def test_missing_device_node_is_reported(tmp_path):
    edits = cdi.Edits(device_nodes=[cdi.DeviceNode("/dev/x", host_path=str(tmp_path / "none"))])
    with pytest.raises(InvalidParameter, match="no such file or directory"):
        cdi.apply(_spec(), edits)
    (tmp_path / "file").touch()
    with pytest.raises(InvalidParameter, match="not a device of the type"):
        cdi.apply(_spec(), cdi.Edits(device_nodes=[cdi.DeviceNode("/dev/x", host_path=str(tmp_path / "file"))]))


GPU = [["gpu"]]


def test_gpu_requests_without_the_nvidia_toolkit_are_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for request, text in (
        (DeviceRequest(count=-1, capabilities=GPU), 'could not select device driver "" with capabilities: [[gpu]]'),
        (DeviceRequest(driver="nvidia"), 'could not select device driver "nvidia" with capabilities: []'),
        (DeviceRequest(driver="x", capabilities=[["gpu", "a"], ["b"]]), 'driver "x" with capabilities: [[gpu a] [b]]'),
    ):
        with pytest.raises(InvalidParameter) as raised:
            devices.inject(_spec(), [request], [])
        assert text in str(raised.value)


@pytest.mark.parametrize(
    ("request_", "env"),
    [
        (DeviceRequest(count=-1, capabilities=GPU), ["NVIDIA_VISIBLE_DEVICES=all"]),
        (DeviceRequest(count=2, capabilities=GPU), ["NVIDIA_VISIBLE_DEVICES=0,1"]),
        (
            DeviceRequest(device_ids=["0", "GPU-x"], capabilities=[["tpu"], ["gpu", "utility", "compute"]]),
            ["NVIDIA_VISIBLE_DEVICES=0,GPU-x", "NVIDIA_DRIVER_CAPABILITIES=utility,compute"],
        ),
        (DeviceRequest(driver="nvidia", count=1), ["NVIDIA_VISIBLE_DEVICES=0"]),
    ],
)
def test_gpu_request_adds_the_nvidia_hook_and_its_environment_variables(tmp_path, monkeypatch, request_, env):
    hook = tmp_path / "nvidia-container-runtime-hook"
    hook.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    spec = _spec()
    devices.inject(spec, [request_], [])
    assert spec["process"]["env"] == ["PATH=/bin", "A=1", *env]
    (entry,) = spec["hooks"]["prestart"]
    assert (entry["path"], entry["args"]) == (str(hook), [hook.name, "prestart"])
    with pytest.raises(InvalidParameter, match="cannot set both Count and DeviceIDs"):
        devices.inject(_spec(), [DeviceRequest(driver="nvidia", count=1, device_ids=["0"])], [])
