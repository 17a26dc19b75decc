"""Flags of `create` and `run`: the resulting request, and errors that are reported before any request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orlop_cli import __main__ as entry
from orlop_cli.testing import RecordedDaemon, answer

ID = "ab" * 32


pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def daemon(daemon: RecordedDaemon) -> RecordedDaemon:
    daemon.on("POST", "/containers/create", answer({"Id": ID, "Warnings": ["careful"]}, 201))
    return daemon


def orlop(daemon: RecordedDaemon, *args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        entry.main(["-H", daemon.host, *args])
    return int(ended.value.code or 0)


def body(daemon: RecordedDaemon, *flags: str) -> dict[str, Any]:
    assert orlop(daemon, "create", *flags) == 0
    made: dict[str, Any] = daemon.find("POST", "/containers/create").json()
    return made


def test_create_without_flags_sends_defaults(daemon: RecordedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    made = body(daemon, "busybox", "echo", "-n", "--rm", "x")
    assert made["Cmd"] == ["echo", "-n", "--rm", "x"]
    assert (made["AttachStdin"], made["AttachStdout"], made["AttachStderr"]) == (False, True, True)
    assert made["HostConfig"]["NetworkMode"] == "default"
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert made["NetworkingConfig"] == {"EndpointsConfig": {}}
    out = capsys.readouterr()
    assert out.out == ID + "\n"
    assert out.err == "WARNING: careful\n"


CONFIG = [
    (["-it"], {"Tty": True, "OpenStdin": True, "StdinOnce": True, "AttachStdin": True}),
    (["-i", "-a", "stdout"], {"OpenStdin": True, "StdinOnce": False, "AttachStdin": False, "AttachStderr": False}),
    (["--entrypoint", "sh"], {"Entrypoint": ["sh"]}),
    (["--entrypoint="], {"Entrypoint": [""]}),
    (
        ["-w", "/x", "-u", "1:2", "-h", "hh", "--domainname", "d"],
        {"WorkingDir": "/x", "User": "1:2", "Hostname": "hh", "Domainname": "d"},
    ),
    (["-e", "A=1", "-eB=2", "-e", "ZZ_NOT_SET"], {"Env": ["A=1", "B=2"]}),
    (["-l", "a=1", "--label", "b"], {"Labels": {"a": "1", "b": ""}}),
    (["-v", "/data", "-v", "/a:/b:ro"], {"Volumes": {"/data": {}}}),
    (["-p", "80", "--expose", "90-91/udp"], {"ExposedPorts": {"80/tcp": {}, "90/udp": {}, "91/udp": {}}}),
    (["--stop-signal", "INT", "--stop-timeout", "0"], {"StopSignal": "INT", "StopTimeout": 0}),
    (["--mac-address", "92:d0:c6:0a:29:33"], {"MacAddress": "92:d0:c6:0a:29:33"}),
    (["--no-healthcheck"], {"Healthcheck": {"Test": ["NONE"]}}),
    (
        ["--health-cmd", "true", "--health-interval", "1m30s", "--health-retries", "2"],
        {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 90 * 10**9, "Retries": 2}},
    ),
]

HOST = [
    (
        ["-m", "512m", "--memory-swap", "-1", "--cpus", "1.5", "-c", "512"],
        {"Memory": 1 << 29, "MemorySwap": -1, "NanoCpus": 1500000000, "CpuShares": 512},
    ),
    (
        ["-m512m", "--memory-reservation=1g", "--memory-swappiness", "0"],
        {"Memory": 1 << 29, "MemoryReservation": 1 << 30, "MemorySwappiness": 0},
    ),
    (
        ["--pids-limit", "-1", "--cpuset-cpus", "0-1", "--shm-size", "1g"],
        {"PidsLimit": -1, "CpusetCpus": "0-1", "ShmSize": 1 << 30},
    ),
    (
        ["--ulimit", "nofile=1:2", "--ulimit", "core=0"],
        {"Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}, {"Name": "nofile", "Soft": 1, "Hard": 2}]},
    ),
    (["-v", "/a:/b:ro", "-v", "vol:/c"], {"Binds": ["/a:/b:ro", "vol:/c"]}),
    (["--tmpfs", "/t:size=1m", "--tmpfs", "/u"], {"Tmpfs": {"/t": "size=1m", "/u": ""}}),
    (
        ["--rm=true", "--privileged", "--read-only", "-P"],
        {"AutoRemove": True, "Privileged": True, "ReadonlyRootfs": True, "PublishAllPorts": True},
    ),
    (["--init=false"], {"Init": False}),
    (["--restart", "on-failure:3"], {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}}),
    (
        ["-p", "127.0.0.1:8080:80", "-p", "81:80"],
        {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}, {"HostIp": "", "HostPort": "81"}]}},
    ),
    (
        ["--cap-add", "NET_ADMIN", "--cap-drop=ALL", "--group-add", "7"],
        {"CapAdd": ["NET_ADMIN"], "CapDrop": ["ALL"], "GroupAdd": ["7"]},
    ),
    (
        ["--add-host", "a:1.2.3.4", "--add-host", "b=::1", "--dns", "1.1.1.1", "--dns-search", "x"],
        {"ExtraHosts": ["a:1.2.3.4", "b:::1"], "Dns": ["1.1.1.1"], "DnsSearch": ["x"]},
    ),
    (["--log-driver", "local", "--log-opt", "max-size=1m"], {"LogConfig": {"Type": "local", "Config": {"max-size": "1m"}}}),
    (
        ["--device", "/dev/a:/dev/b:r", "--device", "/dev/c", "--device", "/dev/d:rw"],
        {
            "Devices": [
                {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"},
                {"PathOnHost": "/dev/c", "PathInContainer": "/dev/c", "CgroupPermissions": "rwm"},
                {"PathOnHost": "/dev/d", "PathInContainer": "/dev/d", "CgroupPermissions": "rw"},
            ]
        },
    ),
    (["--device", "vendor.com/gpu=0"], {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/gpu=0"]}]}),
    (
        ["--gpus", "all"],
        {"DeviceRequests": [{"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}]},
    ),
    (
        ["--security-opt", "systempaths=unconfined", "--security-opt", "no-new-privileges"],
        {"MaskedPaths": [], "ReadonlyPaths": [], "SecurityOpt": ["no-new-privileges"]},
    ),
    (
        ["--sysctl", "net.core.somaxconn=1", "--annotation", "a=b", "--storage-opt", "size=1G"],
        {"Sysctls": {"net.core.somaxconn": "1"}, "Annotations": {"a": "b"}, "StorageOpt": {"size": "1G"}},
    ),
    (
        ["--pid", "host", "--ipc", "none", "--uts", "host", "--userns", "host", "--cgroupns", "host", "--runtime", "crun"],
        {
            "PidMode": "host",
            "IpcMode": "none",
            "UTSMode": "host",
            "UsernsMode": "host",
            "CgroupnsMode": "host",
            "Runtime": "crun",
        },
    ),
    (
        ["--volumes-from", "a:ro", "--link", "db:d", "--oom-kill-disable", "--oom-score-adj", "-5"],
        {"VolumesFrom": ["a:ro"], "Links": ["db:d"], "OomKillDisable": True, "OomScoreAdj": -5},
    ),
    (
        ["--blkio-weight", "10", "--device-read-bps", "/dev/sda:1m", "--device-write-iops", "/dev/sda:5"],
        {
            "BlkioWeight": 10,
            "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1 << 20}],
            "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 5}],
        },
    ),
    (
        ["--mount", "type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave"],
        {
            "Mounts": [
                {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": True, "BindOptions": {"Propagation": "rslave"}}
            ]
        },
    ),
    (
        ["--mount", "src=v,target=/b,volume-opt=a=b,volume-driver=x,volume-nocopy"],
        {
            "Mounts": [
                {
                    "Type": "volume",
                    "Source": "v",
                    "Target": "/b",
                    "VolumeOptions": {"DriverConfig": {"Options": {"a": "b"}, "Name": "x"}, "NoCopy": True},
                }
            ]
        },
    ),
    (
        ["--mount", "type=tmpfs,target=/b,tmpfs-size=1m,tmpfs-mode=1770"],
        {"Mounts": [{"Type": "tmpfs", "Target": "/b", "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770}}]},
    ),
]


@pytest.mark.parametrize(("flags", "expected"), CONFIG, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_config_flags_become_config_fields(daemon: RecordedDaemon, flags: list[str], expected: dict[str, Any]) -> None:
    made = body(daemon, *flags, "busybox")
    assert {key: made.get(key) for key in expected} == expected


@pytest.mark.parametrize(("flags", "expected"), HOST, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_host_flags_become_host_config_fields(daemon: RecordedDaemon, flags: list[str], expected: dict[str, Any]) -> None:
    made = body(daemon, *flags, "busybox")["HostConfig"]
    assert {key: made.get(key) for key in expected} == expected


def test_unset_flags_are_not_sent(daemon: RecordedDaemon) -> None:
    made = body(daemon, "busybox")
    given = {
        "Image",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "HostConfig",
        "NetworkingConfig",
    }
    assert set(made) == given
    defaults = {"NetworkMode", "RestartPolicy", "AutoRemove", "Privileged", "ReadonlyRootfs", "PublishAllPorts"}
    assert set(made["HostConfig"]) == defaults


NETWORKS = [
    (["--network", "host"], "host", {}),
    (
        ["--network", "back", "--network-alias", "db", "--ip", "10.0.0.9"],
        "back",
        {"back": {"Aliases": ["db"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}},
    ),
    (["--network", "back", "--link", "a:b"], "back", {"back": {"Links": ["a:b"]}}),
    (["--network", "name=back,alias=x,driver-opt=a=b"], "back", {"back": {"Aliases": ["x"], "DriverOpts": {"a": "b"}}}),
    (["--network", "back", "--network", "front"], "back", {"back": {}, "front": {}}),
]


@pytest.mark.parametrize(("flags", "mode", "endpoints"), NETWORKS)
def test_network_flags_become_endpoints(
    daemon: RecordedDaemon, flags: list[str], mode: str, endpoints: dict[str, Any]
) -> None:
    daemon.on("GET", "/_ping", answer())
    made = body(daemon, *flags, "busybox")
    assert made["HostConfig"]["NetworkMode"] == mode
    assert made["NetworkingConfig"]["EndpointsConfig"] == endpoints


def test_create_uses_api_version_1_44_if_a_flag_needs_it(daemon: RecordedDaemon) -> None:
    daemon.on("GET", "/_ping", answer())
    body(daemon, "--health-cmd", "x", "--health-start-interval", "1s", "busybox")
    assert daemon.find("POST", "/containers/create").target.startswith("/v1.44/")


def test_flag_unknown_to_the_daemon_is_refused(daemon: RecordedDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.on("GET", "/_ping", answer())
    assert orlop(daemon, "create", "--mount", "type=image,src=x,dst=/x", "busybox") == 1
    assert '"type=image" requires API version 1.48, but the daemon\'s API version is 1.45' in capsys.readouterr().err
    assert daemon.seen() == ["GET /_ping"]


def test_env_and_label_files_are_read(daemon: RecordedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "env").write_text("\ufeffA=1\n# no\n\n  B=2 # kept\nFROM_US\nNOT_SET_HERE\n")
    (tmp_path / "labels").write_text("x=1\ny\n")
    monkeypatch.setenv("FROM_US", "yes")
    made = body(
        daemon, "--env-file", str(tmp_path / "env"), "-e", "C=3", "--label-file", str(tmp_path / "labels"), "busybox"
    )
    assert made["Env"] == ["A=1", "B=2 # kept", "FROM_US=yes", "C=3"]
    assert made["Labels"] == {"x": "1", "y": ""}


def test_seccomp_profile_is_read_by_the_client(daemon: RecordedDaemon, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{\n  "defaultAction": "SCMP_ACT_ALLOW"\n}')
    made = body(daemon, "--security-opt", f"seccomp={tmp_path}/p.json", "busybox")
    assert made["HostConfig"]["SecurityOpt"] == ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']


def test_relative_source_of_a_bind_mount_becomes_an_absolute_path(
    daemon: RecordedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert body(daemon, "-v", "./x:/y", "busybox")["HostConfig"]["Binds"] == [f"{tmp_path}/x:/y"]


def test_proxies_in_config_json_become_environment_variables(daemon: RecordedDaemon, tmp_path: Path) -> None:
    from orlop_cli import _config

    _config.forget()
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://p", "noProxy": "a,b"}}}')
    try:
        assert sorted(body(daemon, "-e", "no_proxy=", "busybox")["Env"]) == [
            "HTTP_PROXY=http://p",
            "NO_PROXY=a,b",
            "http_proxy=http://p",
            "no_proxy=",
        ]
    finally:
        _config.forget()


def test_cidfile_contains_the_id_and_is_not_overwritten(
    daemon: RecordedDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cid"
    body(daemon, "--cidfile", str(path), "busybox")
    assert path.read_text() == ID
    assert orlop(daemon, "create", "--cidfile", str(path), "busybox") == 125
    assert "container ID file found" in capsys.readouterr().err


REFUSED = [
    (["-m", "lots"], 'invalid argument "lots" for "-m, --memory" flag: invalid size: \'lots\''),
    (["--cpus", "x"], "failed to parse x as a rational number"),
    (["--stop-timeout", "x"], 'strconv.ParseInt: parsing "x": invalid syntax'),
    (["--health-interval", "5"], 'time: invalid duration "5"'),
    (["-p", "99999"], "Invalid containerPort: 99999"),
    (["--rm", "--restart", "always"], "conflicting options: cannot specify both --restart and --rm"),
    (["--restart", "always:3"], "maximum retry count can only be used with 'on-failure'"),
    (["--no-healthcheck", "--health-cmd", "x"], "--no-healthcheck conflicts with --health-* options"),
    (["--mount", "type=bind,src=/a"], "target is required"),
    (["--mount", "type=bind,dst=/a,tmpfs-size=1"], "cannot mix 'tmpfs-*' options with mount type 'bind'"),
    (["--mount", "target=/a,foo=bar"], "unexpected key 'foo'"),
    (["--network", "a", "--network", "a"], 'network "a" is specified multiple times'),
    (["--network", "a", "--network", "host"], "cannot attach both user-defined and non-user-defined"),
    (["--network-alias", "x"], "only supported for user-defined networks"),
    (["--ulimit", "nofile"], "invalid ulimit argument"),
    (["--device", "/dev/a:b:c:d"], "invalid device specification"),
    (["--env-file", "/nonexistent"], "open /nonexistent: no such file or directory"),
    (["--security-opt", "seccomp=/nonexistent"], "opening seccomp profile (/nonexistent) failed"),
    (["--log-driver", "none", "--log-opt", "a=b"], "invalid logging opts for driver none"),
    (["-v", "a:"], "empty section between colons"),
    (["--pull", "maybe"], "invalid pull option"),
    (["-a", "stdnone"], "valid streams are STDIN, STDOUT and STDERR"),
    (["--rm=maybe"], 'strconv.ParseBool: parsing "maybe": invalid syntax'),
    (["--nope"], "unknown flag: --nope"),
    (["--name"], "flag needs an argument: --name"),
]


@pytest.mark.parametrize(("flags", "message"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_invalid_flags_exit_with_125_and_send_no_request(
    daemon: RecordedDaemon, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    daemon.on("GET", "/_ping", answer())
    assert orlop(daemon, "create", *flags, *(["busybox"] if flags != ["--name"] else [])) == 125
    err = capsys.readouterr().err
    assert err.startswith("orlop: ")
    assert message in err
    assert "POST /containers/create" not in daemon.seen()
