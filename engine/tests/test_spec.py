"""The OCI spec: golden files for a run without options and for the security options."""

import json
import os

import pytest

from orlop_engine.spec import apparmor, build, capabilities, environment, resources, seccomp, security
from orlop_engine.spec.host import Host
from orlop_engine.types.containers import Device, HostConfig, Resources, Ulimit
from orlop_sdk import InvalidParameter, users

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
FACTS = Host(
    cgroup_version=2, cpus=2, memory=1 << 30, hugetlb_sizes=(), thermal_paths=(), time_namespace=True, apparmor=False
)
ROOT = users.Identity(0, 0, (0, 10), "/root")


def make(host: HostConfig | None = None, **more):
    host = host or HostConfig(
        masked_paths=list(build.MASKED_PATHS),
        readonly_paths=list(build.READONLY_PATHS),
        ipc_mode="private",
        shm_size=64 << 20,
    )
    process = build.ProcessInput(
        args=["sh"],
        env=environment.container("0123456789ab", False, (), "/root"),
        cwd="/",
        identity=ROOT,
        capabilities=capabilities.DEFAULT,
    )
    given = {
        "root": "/exec/mnt/c",
        "process": process,
        "host_config": host,
        "hostname": "0123456789ab",
        "domainname": "",
        "namespaces": {"mount": "", "network": "/proc/7/fd/5", "uts": "", "pid": "", "ipc": "", "cgroup": ""},
        "cgroup_path": "/orlop/c",
        "mounts": [],
        "files": {"/etc/resolv.conf": "/c/resolv.conf", "/etc/hostname": "/c/hostname", "/etc/hosts": "/c/hosts"},
        "seccomp": None,
        "facts": FACTS,
        "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
        **more,
    }
    return build.build(build.SpecInput(**given))


def check_golden(name: str, spec: object) -> None:
    """Compare with the golden file; `ORLOP_GOLDEN=write` rewrites it after an intended change."""
    path = os.path.join(GOLDEN, f"{name}.json")
    text = json.dumps(spec, indent=1, sort_keys=True) + "\n"
    if os.environ.get("ORLOP_GOLDEN") == "write":
        with open(path, "w") as file:
            file.write(text)
    with open(path) as file:
        assert text == file.read(), f"{name}: the spec changed; if it is meant, run again with ORLOP_GOLDEN=write"


def test_spec_of_a_run_without_options_equals_the_spec_of_docker():
    check_golden("plain", make())


def _paths(value, prefix=""):
    """Map the path of each leaf to its value. Lists are leaves, except lists of objects, whose items are named by a key."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _paths(item, f"{prefix}[{item.get('destination', item.get('path', number))}]")
    else:
        yield prefix, value


def difference(spec):
    before, after = dict(_paths(make())), dict(_paths(spec))
    changed = {path: value for path, value in after.items() if path not in before or before[path] != value}
    return {**changed, **dict.fromkeys(before.keys() - after.keys(), "(gone)")}


def asked(**host):
    """The spec of a container with these fields of HostConfig, on a host with AppArmor, with fixed device nodes."""
    privileged = host.get("privileged", False)
    masked = {} if privileged else {"masked_paths": list(build.MASKED_PATHS), "readonly_paths": list(build.READONLY_PATHS)}
    config = HostConfig(**{"ipc_mode": "private", "shm_size": 64 << 20, **masked, **host})
    wanted = security.parse(config.security_opt or ())
    bounding = capabilities.effective(config.cap_add or [], config.cap_drop or [], privileged)
    profile = wanted.seccomp or ("unconfined" if privileged else "builtin")
    spec = make(
        config,
        process=build.ProcessInput(
            args=["sh"],
            env=environment.container("0123456789ab", False, (), "/root"),
            cwd="/",
            identity=ROOT,
            capabilities=bounding,
            no_new_privileges=bool(wanted.no_new_privileges),
            apparmor=apparmor.chosen(wanted.apparmor, privileged),
            rlimits={limit.name: (limit.soft, limit.hard) for limit in config.ulimits or ()},
            oom_score_adj=config.oom_score_adj,
        ),
        writable_cgroups=wanted.writable_cgroups,
        seccomp=None if profile == "unconfined" else {"profile": profile},
        shm="/dev/shm" if config.ipc_mode == "host" else "",
    )
    spec["linux"].pop("devices", None)
    return spec


SECURITY = {
    "nothing": {},
    "privileged": {"privileged": True},
    "read only": {"readonly_rootfs": True},
    "no-new-privileges": {"security_opt": ["no-new-privileges"]},
    "seccomp=unconfined": {"security_opt": ["seccomp=unconfined"]},
    "apparmor=unconfined": {"security_opt": ["apparmor=unconfined"]},
    "apparmor=mine": {"security_opt": ["apparmor:mine"]},
    "privileged, apparmor=mine": {"privileged": True, "security_opt": ["apparmor=mine"]},
    "label=disable": {"security_opt": ["label=disable"]},
    "writable-cgroups": {"security_opt": ["writable-cgroups=true"]},
    "systempaths=unconfined": {"security_opt": ["systempaths=unconfined"], "masked_paths": [], "readonly_paths": []},
    "no capabilities": {"cap_drop": ["ALL"]},
    "one capability": {"cap_drop": ["all"], "cap_add": ["net_admin"]},
    "all capabilities": {"cap_add": ["ALL"], "cap_drop": ["SYS_ADMIN"]},
    "ulimits": {"ulimits": [Ulimit(name="core", soft=-1, hard=-1), Ulimit(name="nofile", soft=5, hard=9)]},
    "oom score": {"oom_score_adj": -7},
    "ipc host": {"ipc_mode": "host"},
    "ipc none": {"ipc_mode": "none"},
}


def test_each_security_option_changes_only_its_part_of_the_spec(monkeypatch):
    monkeypatch.setattr(capabilities, "available", lambda: tuple(f"CAP_{name}" for name in capabilities.NAMES))
    check_golden("security", {name: difference(asked(**host)) for name, host in SECURITY.items()})


def test_domain_name_is_set_by_the_sysctl_kernel_domainname():
    spec = make(domainname="ship.example", sysctls={"net.core.somaxconn": "5"})
    assert spec["linux"]["sysctl"] == {"kernel.domainname": "ship.example", "net.core.somaxconn": "5"}
    assert "kernel.domainname" not in make(domainname="x", namespaces={"mount": ""})["linux"]["sysctl"]


def test_every_member_of_a_seccomp_profile_is_passed_to_the_runtime():
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "listenerPath": "/run/agent.sock",
        "listenerMetadata": "x",
        "syscalls": [{"name": "chmod", "action": "SCMP_ACT_ERRNO"}],
    }
    spec = seccomp.parse(json.dumps(profile), ())
    assert spec.pop("syscalls") == [{"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}]
    assert spec == {key: value for key, value in profile.items() if key != "syscalls"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"/etc/passwd"', "{}", '{"defaultAction":"x","architectures":["a"],"archMap":[{}]}']
)
def test_invalid_seccomp_profiles_are_refused(text):
    with pytest.raises(InvalidParameter, match="Decoding seccomp profile failed"):
        seccomp.parse(text, ())


def test_spec_of_a_privileged_container_masks_no_paths_and_denies_no_devices():
    spec = make(HostConfig(privileged=True))
    assert spec["linux"]["maskedPaths"] == [] and spec["linux"]["readonlyPaths"] == []
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    sysfs = next(m for m in spec["mounts"] if m["destination"] == "/sys")
    assert "ro" not in sysfs["options"]
    assert any(node["path"] == "/dev/null" for node in spec["linux"]["devices"])


def test_read_only_root_keeps_only_kernel_file_systems_writable():
    spec = make(HostConfig(readonly_rootfs=True))
    assert spec["root"]["readonly"] is True
    writable = {m["destination"] for m in spec["mounts"] if "ro" not in m["options"]}
    assert writable == {"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"}


@pytest.mark.parametrize("readonly_rootfs", [True, False])
def test_mount_of_a_network_file_has_each_given_option_once(readonly_rootfs):
    """A network file is, for example, /etc/hosts."""
    host = HostConfig(readonly_rootfs=readonly_rootfs)
    spec = make(host, files={"/etc/hosts": "/h"}, file_options=("ro", "noexec"))
    (found,) = [mount for mount in spec["mounts"] if mount["destination"] == "/etc/hosts"]
    assert found["options"] == ["rbind", "rprivate", "ro", "noexec"]


def test_capabilities_are_never_inheritable_or_ambient():
    held = make()["process"]["capabilities"]
    assert set(held) == {"bounding", "effective", "permitted"}
    assert len(held["bounding"]) == 14


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], ["ALL"], ()),
        (["net_admin"], ["all"], ("CAP_NET_ADMIN",)),
        (["CAP_CHOWN"], ["CHOWN"], None),
    ],
)
def test_capabilities_are_added_and_dropped(add, drop, expected, monkeypatch):
    monkeypatch.setattr(capabilities, "available", lambda: tuple(f"CAP_{name}" for name in capabilities.NAMES))
    held = capabilities.effective(add, drop, privileged=False)
    if expected is None:
        assert "CAP_CHOWN" in held and "CAP_KILL" in held
    else:
        assert held == expected


def test_unknown_capability_is_refused():
    with pytest.raises(InvalidParameter, match='unknown capability: "CAP_FLY"'):
        capabilities.effective(["fly"], [], privileged=False)


def test_user_mounts_replace_default_mounts_at_the_same_path_and_are_sorted_by_depth():
    mounts = [
        {"destination": "/a/b", "type": "bind", "source": "/x", "options": ["rbind", "rslave"]},
        {"destination": "/a", "type": "bind", "source": "/y", "options": ["rbind", "rprivate"]},
        {"destination": "/dev/shm", "type": "bind", "source": "/z", "options": ["rbind", "rprivate"]},
    ]
    spec = make(mounts=mounts)
    places = [m["destination"] for m in spec["mounts"]]
    assert places.count("/dev/shm") == 1 and places.index("/a") < places.index("/a/b")
    assert spec["linux"]["rootfsPropagation"] == "rslave"


def test_spec_always_has_a_rootfs_propagation():
    assert make()["linux"]["rootfsPropagation"] == "rprivate"


def test_spec_with_the_hosts_uts_namespace_has_no_hostname():
    assert "hostname" not in make(namespaces={"mount": "", "pid": ""})


def test_resources_become_limits():
    given = Resources(memory=64 << 20, memory_swap=128 << 20, nano_cpus=1_500_000_000, pids_limit=50, cpu_shares=512)
    spec = resources.of(given)
    assert spec["memory"] == {"limit": 64 << 20, "swap": 128 << 20}
    assert spec["cpu"] == {"shares": 512, "quota": 150_000, "period": 100_000}
    assert spec["pids"] == {"limit": 50}
    assert spec["devices"][0] == {"allow": False, "access": "rwm"}


def test_file_that_is_no_device_is_refused():
    with pytest.raises(InvalidParameter, match="not a device node"):
        resources.device_nodes([Device(path_on_host="/etc/passwd", path_in_container="/dev/x")])


def test_default_seccomp_profile_depends_on_capabilities():
    plain = seccomp.default(tuple(sorted(capabilities.DEFAULT)))
    admin = seccomp.default(tuple(sorted([*capabilities.DEFAULT, "CAP_SYS_ADMIN"])))

    def allowed(profile):
        return {
            n
            for rule in profile["syscalls"]
            if rule["action"] == "SCMP_ACT_ALLOW" and "args" not in rule
            for n in rule["names"]
        }

    assert plain["defaultAction"] == "SCMP_ACT_ERRNO" and plain["defaultErrnoRet"] == 1
    assert "mount" in allowed(admin) - allowed(plain)
    clone3 = [rule for rule in plain["syscalls"] if rule["names"] == ["clone3"]]
    assert clone3 and clone3[0]["errnoRet"] == 38


def test_environment_has_the_same_order_and_overrides_as_in_docker():
    env = environment.container("host", True, ["PATH=/x", "A=1", "A=2", "TERM"], "/home/a")
    assert env == ["PATH=/x", "HOSTNAME=host", "A=2", "HOME=/home/a"]


PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/srv:/bin/sh\nbad:x:99999999999:0::/:/bin/sh\n"
GROUP = "root:x:0:\nwheel:x:10:root,web\nweb:x:1000:\nstaff:x:50:\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0, (0, 10), "/root")),
        ("web", (1000, 1000, (1000, 10), "/srv")),
        ("1000", (1000, 1000, (1000, 10), "/srv")),
        ("4242", (4242, 0, (0,), "/")),
        ("web:staff", (1000, 50, (50,), "/srv")),
        ("5:6", (5, 6, (6,), "/")),
    ],
)
def test_users_are_looked_up_in_the_containers_own_passwd_and_group(root, user, expected):
    assert users.resolve(root, user) == users.Identity(*expected)


@pytest.mark.parametrize(
    "user", ["4294967296", "-1", "0x0", "bad", "nobody-here", "+0", "0:4294967296", "web:nogroup", "２"]
)
def test_invalid_users_are_refused_and_never_treated_as_root(root, user):
    with pytest.raises(InvalidParameter):
        users.resolve(root, user)


def test_number_is_never_looked_up_as_a_login_name(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("1000:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("50:x:0:1000\n")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert users.resolve(fd, "1000") == users.Identity(1000, 0, (0,), "/")
        assert users.resolve(fd, "1000:50", ["50"]) == users.Identity(1000, 50, (50,), "/")
    finally:
        os.close(fd)


def test_passwd_symlink_that_leads_outside_the_container_is_not_followed(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")
    (tmp_path / "etc/group").symlink_to("../../../../../../etc/group")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(InvalidParameter, match="unable to find user daemon"):
            users.resolve(fd, "daemon")
    finally:
        os.close(fd)


def test_named_pipe_at_etc_passwd_does_not_block_the_daemon(tmp_path):
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert users.resolve(fd, "12").uid == 12
    finally:
        os.close(fd)
