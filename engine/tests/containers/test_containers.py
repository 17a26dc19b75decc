"""Pure parts of containers: names, mounts, validation, restart policies, status texts, detach keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.containers import attach, limits, mount_spec, names, restarts, signals, validate
from orlop_engine.containers.configuration import merge_config
from orlop_engine.containers.processes import parse
from orlop_engine.spec.host import Host
from orlop_engine.types.containers import BindOptions, ContainerConfig, HostConfig, MountSpec, Resources, RestartPolicy
from orlop_engine.types.images import ImageConfig
from orlop_sdk import DriverError, InvalidParameter

FACTS = Host(
    cgroup_version=1, cpus=2, memory=1 << 30, hugetlb_sizes=(), thermal_paths=(), time_namespace=True, apparmor=False
)


def test_invalid_container_names_are_refused():
    assert names.check("/web") == "web"
    for bad in ("", "-x", "a", "a b", "a/b", "web\n"):
        with pytest.raises(InvalidParameter, match="Invalid container name"):
            names.check(bad)
    made = names.generate({}, "f" * 64)
    names.check(made)
    assert len(names.new_id()) == 64


class Everything:
    def __contains__(self, name):
        return True


def test_generated_name_is_the_short_id_if_all_other_names_are_taken():
    assert names.generate(Everything(), "abcdef0123456789") == "abcdef012345"


@pytest.mark.parametrize(
    ("text", "kind", "source", "destination", "rw"),
    [
        ("/host:/in", "bind", "/host", "/in", True),
        ("/host:/in:ro,rslave", "bind", "/host", "/in", False),
        ("data:/in", "volume", "data", "/in", True),
        ("data:/in:ro,nocopy", "volume", "data", "/in", False),
    ],
)
def test_bind_strings_are_parsed(text, kind, source, destination, rw):
    made = mount_spec.parse_bind(text)
    assert (made.type, made.source or made.name, made.destination, made.rw) == (kind, source, destination, rw)


def test_anonymous_volume_gets_a_random_name():
    made = mount_spec.parse_bind("/in")
    assert made.anonymous and len(made.name) == 64


@pytest.mark.parametrize("text", ["", ":", "a:b", "/a:/b:zz", "/a:/b:ro,ro", "a:/", "/a:/b:ro:rw", "data:/in:rshared"])
def test_invalid_bind_strings_are_refused(text):
    with pytest.raises(InvalidParameter):
        mount_spec.parse_bind(text)


def test_duplicate_mount_points_are_refused():
    with pytest.raises(InvalidParameter, match="Duplicate mount point: /x"):
        mount_spec.plan(HostConfig(binds=["/a:/x", "/b:/x"]), ())


def test_mount_by_the_user_replaces_an_image_volume_with_the_same_destination():
    planned = mount_spec.plan(HostConfig(binds=["/a:/x"]), ["/x", "/y"])
    assert [(m.destination, m.type) for m in planned] == [("/x", "bind"), ("/y", "volume")]


def test_read_only_binds_of_older_clients_are_not_recursive():
    deep = MountSpec(type="bind", source="/", target="/deep", read_only=True)
    deep.bind_options = BindOptions(read_only_force_recursive=True)
    given = HostConfig(binds=["/a:/ro:ro", "/b:/rw", "volume:/volume:ro"], mounts=[deep])
    (lent,) = mount_spec.plan(HostConfig(binds=["/c:/lent:ro"]), ())
    for flat in (False, True):
        planned = mount_spec.plan(given, (), [lent], flat_readonly=flat)
        assert {made.destination for made in planned if made.flat_readonly} == ({"/ro"} if flat else set())


def test_bind_mount_without_an_existing_source_is_refused(tmp_path):
    absent = f"{tmp_path}/absent"
    with pytest.raises(InvalidParameter, match=f"bind source path does not exist: {absent}"):
        mount_spec.plan(HostConfig(mounts=[MountSpec(type="bind", source=absent, target="/x")]), ())


def test_tmpfs_options_override_default_mount_options():
    (made,) = mount_spec.plan(HostConfig(tmpfs={"/run": "exec,size=1m"}), ())
    (oci,) = mount_spec.oci(made)
    assert oci["options"] == ["nosuid", "nodev", "exec", "size=1m"]


@pytest.mark.parametrize(
    ("text", "number"), [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN+1", 35), ("sigrtmax-14", 50), ("SIGRTMIN", 34)]
)
def test_signals_are_parsed(text, number):
    assert signals.parse_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "SIGWHAT", "", "-1", "9x", "DFL"])
def test_unknown_signals_are_refused(text):
    with pytest.raises(InvalidParameter, match="invalid signal"):
        signals.parse_signal(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"memory": 1 << 20}, "Minimum memory limit allowed is 6MB"),
        ({"memory": 10 << 20, "memory_swap": 8 << 20}, "larger than memory limit"),
        ({"memory_swap": 8 << 20}, "always set the Memory limit"),
        ({"nano_cpus": 3_000_000_000}, "as there are only 2 CPUs available"),
        ({"nano_cpus": 1, "cpu_quota": 5000}, "Conflicting options"),
        ({"cpu_period": 5}, "CPU cfs period"),
        ({"blkio_weight": 5}, "Range of blkio weight"),
        ({"memory_swappiness": 101}, "valid memory swappiness range"),
    ],
)
def test_invalid_resource_limits_are_refused(given, message):
    with pytest.raises(InvalidParameter, match=message):
        limits.check(Resources(**given), FACTS)


def test_swap_defaults_to_twice_the_memory():
    given = Resources(memory=8 << 20)
    limits.check(given, FACTS)
    assert given.memory_swap == 16 << 20


@pytest.mark.parametrize(
    ("config", "host"),
    [
        ({"hostname": "a b"}, {}),
        ({"working_dir": "tmp"}, {}),
        ({"env": ["=x"]}, {}),
        ({"stop_signal": "NOPE"}, {}),
        ({}, {"security_opt": ["fly=high"]}),
        ({}, {"ipc_mode": "what"}),
        ({}, {"pid_mode": "container:"}),
        ({}, {"oom_score_adj": 2000}),
        ({}, {"device_cgroup_rules": ["c 1 rwm"]}),
        ({"hostname": "x"}, {"network_mode": "container:y"}),
        ({}, {"restart_policy": RestartPolicy(name="sometimes")}),
        ({}, {"restart_policy": RestartPolicy(name="always", maximum_retry_count=2)}),
        ({}, {"restart_policy": RestartPolicy(name="on-failure", maximum_retry_count=-1)}),
        ({}, {"restart_policy": RestartPolicy(name="always"), "auto_remove": True}),
    ],
)
def test_invalid_create_requests_are_refused(config, host):
    with pytest.raises(InvalidParameter):
        validate.check(ContainerConfig(**config), HostConfig(**host), FACTS)


IMAGE = ImageConfig(env=["PATH=/img", "A=img"], cmd=["img-cmd"], entrypoint=["img-entry"], labels={"a": "img"}, user="web")


@pytest.mark.parametrize(
    ("given", "entrypoint", "cmd"),
    [
        ({}, ["img-entry"], ["img-cmd"]),
        ({"cmd": ["mine"]}, ["img-entry"], ["mine"]),
        ({"entrypoint": ["mine"]}, ["mine"], None),
        ({"entrypoint": [""], "cmd": ["x"]}, None, ["x"]),
        ({"entrypoint": "mine", "cmd": "x"}, ["mine"], ["x"]),
    ],
)
def test_entrypoint_and_cmd_are_merged_like_in_docker(given, entrypoint, cmd):
    merged = merge_config(ContainerConfig(**given), IMAGE, "f" * 64)
    assert (merged.entrypoint, merged.cmd) == (entrypoint, cmd)


def test_user_settings_override_image_settings_with_the_same_key():
    merged = merge_config(ContainerConfig(env=["A=mine"], labels={"b": "1"}), IMAGE, "0123456789abcdef")
    assert merged.env == ["A=mine", "PATH=/img"]
    assert merged.labels == {"a": "img", "b": "1"}
    assert (merged.user, merged.hostname) == ("web", "0123456789ab")


def test_restart_delay_doubles_up_to_a_minute_and_is_reset_after_a_long_run():
    delays, delay = [], 0.0
    for _ in range(11):
        delay = restarts.next_delay(delay, ran_for=1)
        delays.append(delay)
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8] and delays[-1] == 60
    assert restarts.next_delay(60, ran_for=10) == 0.1


@pytest.mark.parametrize(
    ("policy", "code", "tries", "by_user", "again"),
    [
        ("no", 1, 0, False, False),
        ("always", 0, 0, False, True),
        ("always", 0, 0, True, False),
        ("unless-stopped", 1, 9, False, True),
        ("on-failure", 0, 0, False, False),
        ("on-failure", 1, 0, False, True),
    ],
)
def test_restart_policy_decides_whether_a_container_is_restarted_after_an_exit(policy, code, tries, by_user, again):
    assert restarts.wants_restart(RestartPolicy(name=policy), code, tries, by_user) is again


def test_restart_policy_on_failure_limits_the_number_of_restarts():
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    assert [restarts.wants_restart(policy, 1, tries, False) for tries in range(3)] == [True, True, False]


def test_restart_policy_always_starts_a_stopped_container_when_the_daemon_starts():
    """This is the difference between the restart policies `always` and `unless-stopped`."""
    assert restarts.wants_start_at_boot(RestartPolicy(name="always"), True, True, 0, 0)
    assert not restarts.wants_start_at_boot(RestartPolicy(name="unless-stopped"), True, True, 0, 0)
    assert not restarts.wants_start_at_boot(RestartPolicy(name="always"), False, False, 0, 0)


def test_detach_keys_are_parsed():
    assert attach.parse_detach_keys("") == b"\x10\x11"
    assert attach.parse_detach_keys("ctrl-a,x,DEL,ctrl-@") == b"\x01x\x7f\x00"
    for bad in ("ctrl-", "ctrl-A", "xx", "ctrl-p,"):
        with pytest.raises(InvalidParameter, match="Invalid detach keys"):
            attach.parse_detach_keys(bad)


@given(st.lists(st.binary(max_size=6)), st.sampled_from([b"\x10\x11", b"ab", b"aab", b"x"]))
def test_input_before_the_detach_sequence_is_passed_on(chunks, keys):
    """However the input is divided into chunks, all bytes before the first complete sequence are passed on, and no byte
    after it is passed on."""
    finder, out, done = attach.DetachKeys(keys), b"", False
    for chunk in chunks:
        passed, done = finder.feed(chunk)
        out += passed
        if done:
            break
    typed = b"".join(chunks)
    if done:
        assert typed.startswith(out + keys)
    else:
        held = typed[len(out) :]
        assert typed.startswith(out) and keys.startswith(held) and held != keys


def test_docker_top_lists_only_processes_of_the_container():
    shown = parse("UID PID CMD\nroot 7 sh -c x y\nroot 8 other\n", [7])
    assert shown.rows == [["root", "7", "sh -c x y"]]
    with pytest.raises(DriverError, match="Couldn't find PID field"):
        parse("UID CMD\n", [1])
