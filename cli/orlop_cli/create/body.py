"""The whole body of `POST /containers/create`."""

from __future__ import annotations

from orlop_cli.attached import terminal
from orlop_cli.create import devices, mounts, network, values
from orlop_cli.create.values import bad
from orlop_cli.values import ports

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Json = dict[str, Any]


def build(options: Json, image: str, words: Sequence[str], version: tuple[int, int], detach: bool = False) -> Json:
    """The body with Config, HostConfig and NetworkingConfig. Raises UsageProblem for values that no daemon accepts."""
    _conflicts(options, detach)
    mode, endpoints = network.build(options, version)
    bindings, exposed = _published(options)
    bound, anonymous = mounts.binds(options["volume"])
    body = _config(options, image, words, version, detach)
    body["Volumes"] = anonymous or None
    body["ExposedPorts"] = {port: {} for port in exposed} or None
    host = _host(options)
    security, unmasked = devices.security(options["security_opt"])
    host["SecurityOpt"] = security
    host.update({"Binds": bound or None, "PortBindings": bindings or None, "NetworkMode": mode})
    body["HostConfig"] = _present(host)
    if unmasked:  # an empty list means that nothing is masked; an absent list means the default
        body["HostConfig"].update({"MaskedPaths": [], "ReadonlyPaths": []})
    if options["restart"]:
        body["HostConfig"]["RestartPolicy"] = restart_policy(options["restart"])
    body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return _present(body)


def _present(fields: Json) -> Json:
    """Remove flags that the user has not set, so that the daemon's defaults apply. An explicit False or 0 is sent."""
    return {key: value for key, value in fields.items() if value not in (None, "", (), [])}


def _conflicts(options: Json, detach: bool) -> None:
    if detach and options["attach"]:
        raise bad("conflicting options: cannot specify both --attach and --detach")
    if options["remove"] and options["restart"] not in ("", "no"):
        raise bad("conflicting options: cannot specify both --restart and --rm")
    if options["pull"] not in ("always", "missing", "never"):
        raise bad(f'invalid pull option: \'{options["pull"]}\': must be one of "always", "missing" or "never"')
    for stream in options["attach"]:
        if stream.lower() not in ("stdin", "stdout", "stderr"):
            raise bad("valid streams are STDIN, STDOUT and STDERR")


def attached(options: Json, detach: bool) -> tuple[bool, bool, bool]:
    """Which of stdin, stdout and stderr are attached."""
    if detach:
        return False, False, False
    named = {stream.lower() for stream in options["attach"]}
    if not named:
        return options["interactive"], True, True
    return "stdin" in named, "stdout" in named, "stderr" in named


def _config(options: Json, image: str, words: Sequence[str], version: tuple[int, int], detach: bool) -> Json:
    stdin, stdout, stderr = attached(options, detach)
    entrypoint = options["entrypoint"]
    return {
        "Image": image,
        "Cmd": list(words) or None,
        # --entrypoint "" removes the image's entrypoint. An empty list means that the flag was not given.
        "Entrypoint": None if entrypoint is None else [entrypoint],
        "Hostname": options["hostname"],
        "Domainname": options["domainname"],
        "User": options["user"],
        "WorkingDir": options["workdir"],
        "Tty": options["tty"],
        "OpenStdin": options["interactive"],
        "StdinOnce": options["interactive"] and stdin,
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        "Env": values.environment(options["env_file"], options["env"]),
        "Labels": values.labels(options["label_file"], options["label"]) or None,
        "StopSignal": options["stop_signal"],
        "StopTimeout": options["stop_timeout"],
        "MacAddress": options["mac_address"] if version < (1, 44) else None,
        "Healthcheck": _health(options),
    }


def _health(options: Json) -> Json | None:
    given = {
        "Test": ["CMD-SHELL", options["health_cmd"]] if options["health_cmd"] else None,
        "Interval": options["health_interval"],
        "Timeout": options["health_timeout"],
        "StartPeriod": options["health_start_period"],
        "StartInterval": options["health_start_interval"],
        "Retries": options["health_retries"],
    }
    check = {key: value for key, value in given.items() if value is not None}
    if any(isinstance(value, int) and value < 0 for value in check.values()):
        raise bad("--health-* durations and retries cannot be negative")
    if not options["no_healthcheck"]:
        return check or None
    if check:
        raise bad("--no-healthcheck conflicts with --health-* options")
    return {"Test": ["NONE"]}


def _published(options: Json) -> tuple[ports.Bindings, list[str]]:
    bindings: ports.Bindings = {}
    try:
        for text in options["publish"]:
            for port, hosts in ports.parse_publish(text).items():
                bindings.setdefault(port, []).extend(hosts)
        exposed = [port for text in options["expose"] for port in ports.parse_expose(text)]
    except ValueError as error:
        raise bad(str(error)) from None
    return bindings, sorted({*bindings, *exposed})


def restart_policy(text: str) -> Json:
    """Parse a policy such as `on-failure:3` to the object of the API."""
    name, colon, count = text.partition(":")
    if colon and name != "on-failure":
        raise bad(f"invalid restart policy format: {text}: maximum retry count can only be used with 'on-failure'")
    if colon and not count.isdigit():
        raise bad("invalid restart policy format: maximum retry count must be an integer")
    return {"Name": name, "MaximumRetryCount": int(count or 0)}


def _host(options: Json) -> Json:
    mapped, requests = devices.devices(options["device"])
    if options["gpus"]:
        requests.append(values.parsed("--gpus", options["gpus"], devices.gpus))
    size = terminal.size() if options["tty"] else None
    return {
        **_isolation(options),
        **_resources(options),
        "Devices": mapped,
        "DeviceRequests": requests,
        "ConsoleSize": size,
        "ContainerIDFile": options["cidfile"],
        "AutoRemove": options["remove"],
        "LogConfig": _log(options),
        "Mounts": [mounts.mount(text) for text in options["mount"]],
        "Tmpfs": mounts.tmpfs(options["tmpfs"]) or None,
        "VolumesFrom": list(options["volumes_from"]),
        "VolumeDriver": options["volume_driver"],
        "ReadonlyRootfs": options["read_only"],
        "StorageOpt": values.strict_pairs(options["storage_opt"], "storage option") or None,
        "ShmSize": options["shm_size"],
        "PublishAllPorts": options["publish_all"],
        "ExtraHosts": [values.parsed("--add-host", text, extra_host) for text in options["add_host"]],
        "Dns": [values.parsed("--dns", text, _address) for text in options["dns"]],
        "DnsOptions": list(options["dns_option"]),
        "DnsSearch": list(options["dns_search"]),
        "Links": list(options["link"]),
    }


def _log(options: Json) -> Json | None:
    driver = options["log_driver"] or ""
    given = values.strict_pairs(options["log_opt"], "logging option")
    if driver == "none" and given:
        raise bad("invalid logging opts for driver none")
    return {"Type": driver, "Config": given} if driver or given else None


def extra_host(text: str) -> str:
    name, colon, address = text.partition(":")
    if "=" in name or not colon:
        name, colon, address = text.partition("=")
    if not colon or not name or not address:
        raise bad(f'bad format for add-host: "{text}"')
    return f"{name}:{address.removeprefix('[').removesuffix(']') if ':' in address else address}"


def _address(text: str) -> str:
    import ipaddress

    try:
        ipaddress.ip_address(text.strip())
    except ValueError:
        raise bad(f"IP address is not correctly formatted: {text}") from None
    return text.strip()


def _sysctl(text: str) -> str:
    if "=" not in text:
        raise bad(f"sysctl '{text}' is not allowed")
    return text


def _isolation(options: Json) -> Json:
    return {
        "CapAdd": list(options["cap_add"]),
        "CapDrop": list(options["cap_drop"]),
        "Privileged": options["privileged"],
        "GroupAdd": list(options["group_add"]),
        "Sysctls": values.pairs(values.parsed("--sysctl", text, _sysctl) for text in options["sysctl"]) or None,
        "Annotations": values.strict_pairs(options["annotation"], "annotation") or None,
        "PidMode": options["pid"],
        "IpcMode": options["ipc"],
        "UTSMode": options["uts"],
        "UsernsMode": options["userns"],
        "CgroupnsMode": options["cgroupns"],
        "Runtime": options["runtime"],
        "Isolation": options["isolation"],
        "Init": options["init"],
    }


def _resources(options: Json) -> Json:
    return {
        "Memory": options["memory"],
        "MemoryReservation": options["memory_reservation"],
        "MemorySwap": options["memory_swap"],
        "MemorySwappiness": None if options["memory_swappiness"] == -1 else options["memory_swappiness"],
        "NanoCpus": options["cpus"],
        "CpuShares": options["cpu_shares"],
        "CpuPeriod": options["cpu_period"],
        "CpuQuota": options["cpu_quota"],
        "CpuRealtimePeriod": options["cpu_rt_period"],
        "CpuRealtimeRuntime": options["cpu_rt_runtime"],
        "CpusetCpus": options["cpuset_cpus"],
        "CpusetMems": options["cpuset_mems"],
        "PidsLimit": options["pids_limit"],
        "Ulimits": values.ulimits(options["ulimit"]),
        "OomKillDisable": options["oom_kill_disable"] or None,
        "OomScoreAdj": options["oom_score_adj"],
        "BlkioWeight": options["blkio_weight"],
        "BlkioWeightDevice": values.weights(options["blkio_weight_device"]),
        "BlkioDeviceReadBps": values.rates(options["device_read_bps"], sizes=True),
        "BlkioDeviceWriteBps": values.rates(options["device_write_bps"], sizes=True),
        "BlkioDeviceReadIOps": values.rates(options["device_read_iops"], sizes=False),
        "BlkioDeviceWriteIOps": values.rates(options["device_write_iops"], sizes=False),
        "CgroupParent": options["cgroup_parent"],
        "DeviceCgroupRules": list(options["device_cgroup_rule"]),
    }


def needed_version(options: Json) -> tuple[tuple[int, int], str] | None:
    """The newest API version that a flag needs, and that flag. Flags that need no newer version than BASE_API are not
    considered."""
    needs = [network.needed_version(options), mounts.needed_version([mounts.mount(text) for text in options["mount"]])]
    if options["health_start_interval"] is not None:
        needs.append(((1, 44), "--health-start-interval"))
    return max((need for need in needs if need), default=None)
