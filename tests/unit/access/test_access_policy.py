"""Roles, host access rules and configuration of listeners, tested without a daemon."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import msgspec
import pytest

import orlop_api_docker as api
import orlop_check
from orlop_api_docker.decode import decode_json
from orlop_engine.types.containers import CreateRequest, HostConfig, ThrottleDevice, UpdateRequest
from orlop_engine.types.networks import ConfigReference
from orlop_engine.types.networks import CreateRequest as NetworkRequest
from orlop_engine.types.volumes import VolumeCreateRequest
from orlop_engine.volumes.record import VolumeRecord
from orlop_guard_listeners import host_access, redact
from orlop_guard_listeners.audit import Line
from orlop_guard_listeners.keys import ROLES, AccessKeys, AuditLog
from orlop_guard_listeners.listener_policy import ListenerPolicy
from orlop_guard_listeners.roles import ROLE_LEVEL, ROUTES, UNKNOWN, Host, Level, Rule, Scope
from orlop_kernel.config import ConfigError, Listener, load


def test_route_that_is_not_in_the_table_requires_role_full_without_labels() -> None:
    assert UNKNOWN == (Level.FULL, Scope.CLOSED, Host.ANYTHING)
    assert tuple(ROLE_LEVEL) == ROLES


def test_role_read_only_can_neither_change_anything_nor_read_files() -> None:
    readable = {route for route, rule in ROUTES.items() if rule.level is Level.READ}
    assert {route for route in readable if not route.startswith(("GET", "HEAD"))} == {"POST /containers/{id}/wait"}
    assert not [route for route in readable if route.endswith(("/archive", "/export", "/get", "/attach/ws", "/search"))]
    for needed in ("GET /containers/{id}/logs", "GET /events", "GET /containers/{id}/stats", "GET /containers/{id}/json"):
        assert needed in readable


def test_role_no_exec_cannot_run_commands_in_containers() -> None:
    beyond = {route for route, rule in ROUTES.items() if rule.level is Level.FULL}
    assert beyond == {
        "POST /containers/{id}/exec",
        "POST /exec/{id}/start",
        "POST /exec/{id}/resize",
        "PUT /containers/{id}/archive",
        "GET /containers/{id}/attach/ws",
        "GET /containers/{id}/checkpoints",
        "POST /containers/{id}/checkpoints",
        "DELETE /containers/{id}/checkpoints/{checkpoint}",
        *(route for route, rule in ROUTES.items() if rule is UNKNOWN),
    }


def test_every_route_for_an_object_is_checked_on_listeners_with_labels() -> None:
    """Only routes that concern no object are open to listeners with labels without a check."""
    unjudged = {route for route, rule in ROUTES.items() if rule.scope is Scope.OPEN}
    assert not [route for route in unjudged if "{id}" in route]
    assert unjudged == {
        *("GET /_ping", "HEAD /_ping", "GET /version", "GET /info", "POST /auth"),
        *("GET /images/search", "GET /distribution/{name}/json"),
    }


def beyond(apart: bool = True, **host: Any) -> list[str]:
    body = json.dumps({"Image": "x", "HostConfig": host}).encode()
    return [*host_access.of_container(decode_json(body, CreateRequest), apart=apart)]


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ({"Privileged": True}, "Privileged"),
        ({"Binds": ["/etc:/e:ro"]}, "the bind mount /etc:/e:ro"),
        ({"VolumeDriver": "nfs-plugin", "Binds": ["v:/v"]}, "a volume of driver nfs-plugin"),
        (
            {"Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": {"DriverConfig": {"Name": "nfs-plugin"}}}]},
            "a volume of driver nfs-plugin",
        ),
        ({"Binds": ["/run/orlop.sock:/s"]}, "the bind mount /run/orlop.sock:/s"),
        ({"Mounts": [{"Type": "bind", "Source": "/", "Target": "/h"}]}, "the bind mount of /"),
        (
            {
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": "v",
                        "Target": "/h",
                        "VolumeOptions": {"DriverConfig": {"Options": {"o": "bind"}}},
                    }
                ]
            },
            "the volume v with options of its driver",
        ),
        ({"Devices": [{"PathOnHost": "/dev/sda"}]}, "Devices"),
        ({"DeviceCgroupRules": ["a *:* rwm"]}, "DeviceCgroupRules"),
        ({"DeviceRequests": [{}]}, "DeviceRequests"),
        ({"CapAdd": ["SYS_ADMIN"]}, "CapAdd"),
        ({"CapAdd": "ALL"}, "CapAdd"),
        ({"SecurityOpt": ["apparmor=unconfined"]}, "SecurityOpt apparmor=unconfined"),
        ({"SecurityOpt": ["label:disable"]}, "SecurityOpt label:disable"),
        ({"MaskedPaths": []}, "MaskedPaths"),
        ({"ReadonlyPaths": []}, "ReadonlyPaths"),
        ({"CgroupParent": "/x"}, "CgroupParent"),
        ({"BlkioWeightDevice": [{"Path": "/x", "Weight": 10}]}, "BlkioWeightDevice"),
        ({"BlkioDeviceReadBps": [{"Path": "/x", "Rate": 1}]}, "BlkioDeviceReadBps"),
        ({"BlkioDeviceWriteBps": [{"Path": "/x", "Rate": 1}]}, "BlkioDeviceWriteBps"),
        ({"BlkioDeviceReadIOps": [{"Path": "/x", "Rate": 1}]}, "BlkioDeviceReadIOps"),
        ({"blkiodevicewriteiops": [{"Path": "/x", "Rate": 1}]}, "BlkioDeviceWriteIOps"),
        ({"Mounts": [{"Type": "image", "Source": "x", "Target": "/i"}]}, "the image mount of x"),
        ({"Annotations": {"run.oci.hooks.stdout": "/etc/x"}}, "Annotations"),
        ({"NetworkMode": "host"}, "NetworkMode host"),
        ({"PidMode": "host"}, "PidMode host"),
        ({"IpcMode": "host"}, "IpcMode host"),
        ({"UTSMode": "host"}, "UTSMode host"),
        ({"UsernsMode": "host"}, "UsernsMode host"),
        ({"CgroupnsMode": "host"}, "CgroupnsMode host"),
        ({"PidMode": "container:x"}, "PidMode container:x"),
    ],
)
def test_create_request_for_host_access_is_refused(host: dict[str, Any], what: str) -> None:
    assert beyond(**host) == [what]


def test_create_request_without_host_access_is_allowed() -> None:
    harmless = {
        "Binds": ["data:/d", "/anonymous"],
        "Mounts": [{"Type": "tmpfs", "Target": "/t"}, {"Type": "volume", "Target": "/v"}],
        "SecurityOpt": ["no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"],
        "NetworkMode": "container:x",
        "IpcMode": "private",
        "CapDrop": ["ALL"],
        "MaskedPaths": None,
        "Annotations": {},
        "Memory": 1 << 26,
        "PortBindings": {"80/tcp": [{"HostPort": "80"}]},
    }
    assert beyond(**harmless) == []
    assert beyond(apart=False, PidMode="container:x") == []
    assert [*host_access.of_container(CreateRequest(image="x"), apart=True)] == []


def test_every_host_config_field_is_checked_or_listed_as_harmless() -> None:
    """Every new field must be classified: does it name a path, a device or a namespace of the host?"""
    assert {field.name for field in msgspec.structs.fields(HostConfig)} == JUDGED | HARMLESS


JUDGED = {
    *("binds", "mounts", "volumes_from", "devices", "device_cgroup_rules", "device_requests", "cgroup_parent"),
    *("blkio_weight_device", "blkio_device_read_bps", "blkio_device_write_bps"),
    *("blkio_device_read_iops", "blkio_device_write_iops"),
    *("network_mode", "pid_mode", "ipc_mode", "uts_mode", "userns_mode", "cgroupns_mode"),
    *("privileged", "cap_add", "volume_driver", "security_opt", "masked_paths", "readonly_paths", "annotations"),
}
HARMLESS = {
    # Numbers and switches that affect only the container's own cgroup and processes
    *("cpu_shares", "memory", "nano_cpus", "blkio_weight", "cpu_period", "cpu_quota", "cpu_realtime_period"),
    *("cpu_realtime_runtime", "cpuset_cpus", "cpuset_mems", "memory_reservation", "memory_swap", "memory_swappiness"),
    *("oom_kill_disable", "pids_limit", "ulimits", "oom_score_adj", "shm_size", "init", "sysctls", "group_add", "cap_drop"),
    # Only for Windows, or ignored
    *("cpu_count", "cpu_percent", "io_maximum_iops", "io_maximum_bandwidth", "kernel_memory", "kernel_memory_tcp"),
    *("isolation", "container_id_file", "console_size", "cgroup"),
    # Names of installed drivers and runtimes, options that drivers check, and settings inside the container
    *("log_config", "runtime", "storage_opt", "tmpfs", "readonly_rootfs", "restart_policy", "auto_remove"),
    # Settings of the container's network
    *("port_bindings", "publish_all_ports", "dns", "dns_options", "dns_search", "extra_hosts", "links"),
}


def test_host_access_is_detected_in_update_and_volume_and_network_requests() -> None:
    assert [*host_access.of_update(UpdateRequest(memory=5))] == []
    assert [*host_access.of_update(UpdateRequest(device_cgroup_rules=["a"]))] == ["DeviceCgroupRules"]
    assert [*host_access.of_update(UpdateRequest(blkio_device_read_bps=[ThrottleDevice(path="/x")]))] == [
        "BlkioDeviceReadBps"
    ]
    assert [*host_access.of_volume(VolumeCreateRequest(name="x", driver_opts={"device": "/"}))] == [
        "a volume with options of its driver"
    ]
    assert [*host_access.of_volume(VolumeCreateRequest(name="x", driver_opts={}))] == []
    assert [*host_access.of_volume(VolumeCreateRequest(name="x", driver="local"))] == []
    assert [*host_access.of_volume(VolumeCreateRequest(name="x", driver="plugin"))] == ["a volume of driver plugin"]
    assert [*host_access.of_network(NetworkRequest(name="x"))] == []
    assert [*host_access.of_network(NetworkRequest(name="x", driver="macvlan"))] == ["a network of driver macvlan"]
    templated = NetworkRequest(name="x", config_from=ConfigReference(network="cfg"))
    assert [*host_access.of_network(templated)] == ["a network with the settings of a configuration-only network"]
    named = NetworkRequest(name="x", options={"com.docker.network.bridge.name": "docker0"})
    assert [*host_access.of_network(named)] == ["a network with com.docker.network.bridge.name"]


@pytest.mark.parametrize(
    ("options", "of_host"),
    [
        ({}, False),
        ({"type": "none", "o": "bind", "device": "/etc"}, True),
        ({"type": "nfs", "o": "ro,rbind", "device": "/etc"}, True),
        ({"type": "ext4", "device": "/dev/sda1"}, True),
        ({"type": "overlay", "o": "lowerdir=/etc:/x", "device": "overlay"}, True),
        ({"type": "overlay", "o": "lowerdir=/etc:/x", "device": ""}, True),
        ({"type": "tmpfs", "o": "size=1m", "device": "tmpfs"}, False),
        ({"type": "nfs", "o": "addr=192.0.2.1", "device": ":/export"}, False),
        ({"type": "cifs", "o": "username=u", "device": "//server/share"}, False),
    ],
)
def test_volume_options_that_mount_a_host_path_are_detected(options: dict[str, str], of_host: bool) -> None:
    assert VolumeRecord("v", "local", 0, options=options).is_host_path == of_host


def test_volumes_of_other_drivers_count_as_host_paths() -> None:
    assert VolumeRecord("v", "some-plugin", 0).is_host_path


# --- fields hidden from readers ---------------------------------------------------------------------------------------


def seen(route: str, answer: Any, show_env: bool = False) -> Any:
    redact.READERS[route](answer, show_env)
    return answer


def test_read_only_inspect_hides_values_of_environment_variables() -> None:
    for route in ("/containers/{id}/json", "/images/{name}/json"):
        assert seen(route, {"Config": {"Env": ["A=b=c", "D"]}}) == {"Config": {"Env": ["A=(hidden)", "D=(hidden)"]}}
        assert seen(route, {"Config": {"Env": ["A=b"]}}, True) == {"Config": {"Env": ["A=b"]}}
        assert seen(route, {"Config": None}) == {"Config": None}


@pytest.mark.parametrize(
    ("step", "shown"),
    [
        ("ENV PW=secret A=b", "ENV (hidden)"),
        ("/bin/sh -c #(nop)  ENV PW=secret", "/bin/sh -c #(nop)  ENV (hidden)"),
        ("ARG PW=secret\nmore", "ARG (hidden)"),
        ("RUN |2 A=b PW=secret /bin/sh -c make # buildkit", "RUN |2 (hidden) /bin/sh -c make # buildkit"),
        ("|1 PW=secret /bin/sh -c make", "|1 (hidden) /bin/sh -c make"),
        ("RUN |1 TOKEN=secret bash -c y # buildkit", "RUN |1 (hidden)"),
        ("RUN |1 P=/opt/bin/secret /bin/bash -eo pipefail -c y", "RUN |1 (hidden) /bin/bash -eo pipefail -c y"),
        ("RUN |1 P=/bin/sh secret /usr/bin/env y", "RUN |1 (hidden)"),
        ("RUN |1 P=a /bin/sh -c secret /bin/sh -c y", "RUN |1 (hidden) /bin/sh -c y"),
        ("RUN |1 A=b\nPW=secret\n/bin/zsh -c y", "RUN |1 (hidden)"),
        ("COPY . /ENV / # buildkit", "COPY . /ENV / # buildkit"),
        ('CMD ["nginx"]', 'CMD ["nginx"]'),
    ],
)
def test_read_only_image_history_hides_values_of_environment_variables(step: str, shown: str) -> None:
    assert seen("/images/{name}/history", [{"CreatedBy": step}]) == [{"CreatedBy": shown}]
    assert seen("/images/{name}/history", [{"CreatedBy": step}], True) == [{"CreatedBy": step}]


def test_read_only_clients_cannot_see_statements_of_attestations() -> None:
    given = [{"PredicateType": "p", "Statement": {"invocation": {"parameters": {"args": {"TOKEN": "secret"}}}}}]
    assert seen("/images/{name}/attestations", given) == [{"PredicateType": "p"}]
    assert seen("/images/{name}/attestations", given, show_env=True) == given


def test_read_only_clients_cannot_see_options_of_volumes() -> None:
    options = {"Options": {"o": "password=secret"}}
    hidden = {"Options": {"o": "(hidden)"}}
    assert seen("/volumes/{name}", {"Name": "v", **options}, True) == {"Name": "v", **hidden}
    assert seen("/volumes", {"Volumes": [dict(options), {"Options": None}]}) == {"Volumes": [hidden, {"Options": None}]}
    mounts = [{"VolumeOptions": {"DriverConfig": dict(options)}}, {"VolumeOptions": None}, {}]
    found = seen("/containers/{id}/json", {"Config": {}, "HostConfig": {"Mounts": mounts}}, True)
    assert found["HostConfig"]["Mounts"][0] == {"VolumeOptions": {"DriverConfig": hidden}}


def test_policy_is_made_from_role_and_labels_of_a_listener() -> None:
    def policy(role: str, *labels: str) -> ListenerPolicy:
        return ListenerPolicy.of(Listener(host="unix:///x", role=role, labels=labels))

    assert [policy(role).guarded for role in ROLES] == [True, True, False]
    assert policy("full", "a=b").guarded
    assert policy("full", "a=b", "c").labels == (("a", "b"), ("c", None))
    assert policy("full", "a=b", "c").label_texts == ("a=b", "c")


# --- configuration ----------------------------------------------------------------------------------------------------


def configured(tmp_path: Path, content: dict[str, Any]) -> Any:
    path = tmp_path / "daemon.json"
    path.write_text(json.dumps(content))
    return load(["--config-file", str(path)], {})


def test_valid_listeners_are_accepted(tmp_path: Path) -> None:
    entry = {"host": "unix:///run/read.sock", "role": "read-only", "labels": ["com.example.team=web"], "mode": "0660"}
    config = configured(tmp_path, {"listeners": [entry], "audit-log": {"path": "/a"}, "authorization-plugins": ["opa"]})
    assert config.listeners == (
        Listener(host="unix:///run/read.sock", role="read-only", labels=("com.example.team=web",), mode="0660"),
    )
    assert config.part(AccessKeys) == AccessKeys(audit_log=AuditLog(path="/a"), authorization_plugins=("opa",))
    assert AuditLog(path="/a") == AuditLog(path="/a", max_size="100m", max_file=5, required=False)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            {"host": "unix:///x", "role": "reader"},
            'invalid listener (unix:///x): unknown role "reader" (read-only, no-exec, full)',
        ),
        ({"host": "/x", "role": "full"}, "its host must be unix://PATH or tcp://HOST:PORT"),
        ({"host": "fd://3", "role": "full"}, "its host must be unix://PATH or tcp://HOST:PORT"),
        ({"host": "unix://x", "role": "full"}, "an absolute path is needed"),
        ({"host": "tcp://127.0.0.1:99", "role": "read-only"}, "a tcp host needs client certificates: set tlsverify"),
        ({"host": "tcp://127.0.0.1", "role": "read-only"}, "its host must be tcp://HOST:PORT"),
        ({"host": "tcp://h:1", "role": "full", "group": "x"}, "group is only for unix sockets"),
        ({"host": "unix:///x", "role": "full", "tlscacert": "/ca.pem"}, "tlscacert is only for tcp hosts"),
        ({"host": "unix:///x", "role": "full", "mode": "rw"}, 'mode "rw" is not octal'),
        ({"host": "unix:///x", "role": "full", "mode": "0666"}, "every user of this machine could become root"),
        ({"host": "unix:///x", "role": "full", "labels": ["=a"]}, 'label "=a" has no name'),
        (
            {"host": "unix:///x", "role": "full", "labels": ["name=web"]},
            'label "name" has the name of an attribute of events',
        ),
        ({"host": "unix:///x", "role": "full", "labels": ["a=1", "a=2"]}, "one label is listed twice"),
        ({"host": "unix:///x", "role": "full", "shared-images": True}, "shared-images is only for listeners with labels"),
        (
            {"host": "unix:///x", "role": "full", "image-names": ["a/*"]},
            "image-names is not for role full without labels",
        ),
        ({"host": "unix:///x", "role": "read-only", "image-names": ["a/*"]}, "image-names is not for role read-only"),
        (
            {"host": "unix:///x", "role": "no-exec", "image-names": ["[a]"]},
            'image-names "[a]" is not a pattern of image names',
        ),
        ({"host": "unix:///x", "role": "no-exec", "image-names": [""]}, 'image-names "" is not a pattern of image names'),
        ({"host": "unix:///s", "role": "full"}, "another listener or one of hosts has this address"),
        ({"host": "unix:///x"}, "listeners"),
        ({"host": "unix:///x", "role": "full", "rol": 1}, "rol"),
    ],
)
def test_invalid_listeners_are_refused(tmp_path: Path, entry: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        configured(tmp_path, {"hosts": ["unix:///s"], "listeners": [entry]})
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"audit-log": {"path": "x"}}, 'invalid audit-log path "x": an absolute path is needed'),
        ({"audit-log": {"path": "/x", "max-size": "much"}}, 'invalid audit-log max-size "much"'),
        ({"audit-log": {"path": "/x", "max-size": "1k"}}, "at least 4k"),
        ({"audit-log": {"path": "/x", "max-file": 0}}, "invalid audit-log max-file: 0 (1 to 1000)"),
        ({"audit-log": {}}, "audit-log"),
        ({"authorization-plugins": ["../x"]}, 'invalid authorization plugin "../x"'),
    ],
)
def test_invalid_values_of_audit_log_and_authorization_plugins_are_refused(
    tmp_path: Path, content: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigError) as error:
        configured(tmp_path, content)
    assert text in str(error.value)


# --- documentation ----------------------------------------------------------------------------------------------------


def test_access_page_has_the_same_table_of_routes_as_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "access.md").read_text()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if re.match(r"\| `[A-Z]+ /", line)
    ]

    def may(rule: Rule, level: Level) -> str:
        return "yes" if rule.level <= level else "no"

    assert rows == [
        [f"`{route}`", may(rule, Level.READ), may(rule, Level.CHANGE), rule.scope.value, rule.host.value]
        for route, rule in ROUTES.items()
    ]


def test_table_of_routes_has_exactly_the_served_routes() -> None:
    """The table has level, scope and host rule of each served route, and has no other routes."""
    names = (each.name for part in (api, orlop_check) for each in pkgutil.iter_modules(part.__path__, f"{part.__name__}."))
    modules = [importlib.import_module(name) for name in names]
    made = [route for each in modules if hasattr(each, "routes") for route in each.routes(MagicMock())]
    assert ROUTES.keys() == {f"{route.method} {route.pattern}" for route in made}


def test_access_page_names_every_field_of_listeners_and_audit_log() -> None:
    page = (Path(__file__).parents[3] / "docs" / "access.md").read_text()
    fields = {*Listener.__struct_encode_fields__, *AuditLog.__struct_encode_fields__, *Line.__struct_encode_fields__}
    assert not [field for field in fields if f"`{field}`" not in page and f'"{field}":' not in page]
