"""The types of docker's client behind `inspect`, `info` and `version`: their fields, with Go's names and in Go's order.

Templates are executed on these types, so a field that the daemon has left out has a value: "", 0, false, nil. The fields are
those that docker 26.1 prints for `{{printf "%#v" .}}`.

Kinds: s string, b bool, i integer, d duration, t time, l list, m map, p pointer to a value without a type here. "Health" is
a type of this table, "*Health" a pointer to it, "l:Name" a list and "m:Name" a map of a type or kind. "+Name" is an embedded
type, whose fields are also fields of the outer type.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NIL", "GoMap", "Struct", "typed"]

_TYPES = {
    "ContainerJSON": "+ContainerJSONBase Mounts:l:MountPoint Config:*Config NetworkSettings:*NetworkSettings",
    "ContainerJSONBase": (
        "ID:s Created:s Path:s Args:l State:*ContainerState Image:s ResolvConfPath:s HostnamePath:s HostsPath:s "
        "LogPath:s Node:p Name:s RestartCount:i Driver:s Platform:s MountLabel:s ProcessLabel:s AppArmorProfile:s "
        "ExecIDs:l HostConfig:*HostConfig GraphDriver:GraphDriverData SizeRw:p SizeRootFs:p"
    ),
    "ContainerState": (
        "Status:s Running:b Paused:b Restarting:b OOMKilled:b Dead:b Pid:i ExitCode:i Error:s StartedAt:s FinishedAt:s "
        "Health:*Health"
    ),
    "Health": "Status:s FailingStreak:i Log:l:HealthcheckResult",
    "HealthcheckResult": "Start:t End:t ExitCode:i Output:s",
    "Config": (
        "Hostname:s Domainname:s User:s AttachStdin:b AttachStdout:b AttachStderr:b ExposedPorts:m:Empty Tty:b OpenStdin:b "
        "StdinOnce:b Env:l Cmd:l Healthcheck:*HealthcheckConfig ArgsEscaped:b Image:s Volumes:m:Empty WorkingDir:s "
        "Entrypoint:l NetworkDisabled:b MacAddress:s OnBuild:l Labels:m StopSignal:s StopTimeout:p Shell:l"
    ),
    "HealthcheckConfig": "Test:l Interval:d Timeout:d StartPeriod:d StartInterval:d Retries:i",
    "HostConfig": (
        "Binds:l ContainerIDFile:s LogConfig:LogConfig NetworkMode:s PortBindings:m:l:PortBinding "
        "RestartPolicy:RestartPolicy "
        "AutoRemove:b VolumeDriver:s VolumesFrom:l ConsoleSize:l Annotations:m CapAdd:l CapDrop:l CgroupnsMode:s DNS:l "
        "DNSOptions:l DNSSearch:l ExtraHosts:l GroupAdd:l IpcMode:s Cgroup:s Links:l OomScoreAdj:i PidMode:s "
        "Privileged:b PublishAllPorts:b ReadonlyRootfs:b SecurityOpt:l StorageOpt:m Tmpfs:m UTSMode:s UsernsMode:s "
        "ShmSize:i Sysctls:m Runtime:s Isolation:s +Resources Mounts:l MaskedPaths:l ReadonlyPaths:l Init:p"
    ),
    "LogConfig": "Type:s Config:m",
    "RestartPolicy": "Name:s MaximumRetryCount:i",
    "Resources": (
        "CPUShares:i Memory:i NanoCPUs:i CgroupParent:s BlkioWeight:i BlkioWeightDevice:l BlkioDeviceReadBps:l "
        "BlkioDeviceWriteBps:l BlkioDeviceReadIOps:l BlkioDeviceWriteIOps:l CPUPeriod:i CPUQuota:i CPURealtimePeriod:i "
        "CPURealtimeRuntime:i CpusetCpus:s CpusetMems:s Devices:l DeviceCgroupRules:l DeviceRequests:l KernelMemory:i "
        "KernelMemoryTCP:i MemoryReservation:i MemorySwap:i MemorySwappiness:p OomKillDisable:p PidsLimit:p Ulimits:l "
        "CPUCount:i CPUPercent:i IOMaximumIOps:i IOMaximumBandwidth:i"
    ),
    "NetworkSettings": "+NetworkSettingsBase +DefaultNetworkSettings Networks:m:EndpointSettings",
    "NetworkSettingsBase": (
        "Bridge:s SandboxID:s SandboxKey:s Ports:m:l:PortBinding HairpinMode:b LinkLocalIPv6Address:s "
        "LinkLocalIPv6PrefixLen:i SecondaryIPAddresses:l SecondaryIPv6Addresses:l"
    ),
    "DefaultNetworkSettings": (
        "EndpointID:s Gateway:s GlobalIPv6Address:s GlobalIPv6PrefixLen:i IPAddress:s IPPrefixLen:i IPv6Gateway:s "
        "MacAddress:s"
    ),
    "EndpointSettings": (
        "IPAMConfig:p Links:l Aliases:l MacAddress:s NetworkID:s EndpointID:s Gateway:s IPAddress:s IPPrefixLen:i "
        "IPv6Gateway:s GlobalIPv6Address:s GlobalIPv6PrefixLen:i DriverOpts:m DNSNames:l"
    ),
    "MountPoint": "Type:s Name:s Source:s Destination:s Driver:s Mode:s RW:b Propagation:s",
    "ImageInspect": (
        "ID:s RepoTags:l RepoDigests:l Parent:s Comment:s Created:s Container:s ContainerConfig:*Config DockerVersion:s "
        "Author:s Config:*Config Architecture:s Variant:s Os:s OsVersion:s Size:i VirtualSize:i "
        "GraphDriver:GraphDriverData RootFS:RootFS Metadata:Metadata"
    ),
    "GraphDriverData": "Data:m Name:s",
    "RootFS": "Type:s Layers:l",
    "Metadata": "LastTagTime:t",
    "NetworkResource": (
        "Name:s ID:s Created:t Scope:s Driver:s EnableIPv6:b IPAM:IPAM Internal:b Attachable:b Ingress:b "
        "ConfigFrom:ConfigReference ConfigOnly:b Containers:m Options:m Labels:m Peers:l Services:m"
    ),
    "IPAM": "Driver:s Options:m Config:l:IPAMConfig",
    "IPAMConfig": "Subnet:s IPRange:s Gateway:s AuxAddress:m",
    "ConfigReference": "Network:s",
    "Volume": "ClusterVolume:p CreatedAt:s Driver:s Labels:m Mountpoint:s Name:s Options:m Scope:s Status:m UsageData:p",
    "dockerInfo": "+Info ServerErrors:l UserName:s ClientInfo:m ClientErrors:l",
    "Info": (
        "ID:s Containers:i ContainersRunning:i ContainersPaused:i ContainersStopped:i Images:i Driver:s DriverStatus:l "
        "SystemStatus:l Plugins:PluginsInfo MemoryLimit:b SwapLimit:b KernelMemory:b KernelMemoryTCP:b CPUCfsPeriod:b "
        "CPUCfsQuota:b CPUShares:b CPUSet:b PidsLimit:b IPv4Forwarding:b BridgeNfIptables:b BridgeNfIP6tables:b Debug:b "
        "NFd:i OomKillDisable:b NGoroutines:i SystemTime:s LoggingDriver:s CgroupDriver:s CgroupVersion:s "
        "NEventsListener:i KernelVersion:s OperatingSystem:s OSVersion:s OSType:s Architecture:s IndexServerAddress:s "
        "RegistryConfig:p NCPU:i MemTotal:i GenericResources:l DockerRootDir:s HTTPProxy:s HTTPSProxy:s NoProxy:s "
        "Name:s Labels:l ExperimentalBuild:b ServerVersion:s Runtimes:m DefaultRuntime:s Swarm:m LiveRestoreEnabled:b "
        "Isolation:s InitBinary:s ContainerdCommit:Commit RuncCommit:Commit InitCommit:Commit SecurityOptions:l "
        "ProductLicense:s DefaultAddressPools:l CDISpecDirs:l Warnings:l"
    ),
    "PluginsInfo": "Volume:l Network:l Authorization:l Log:l",
    "Commit": "ID:s Expected:s",
    "ServerVersion": (
        "Platform:Platform Components:l:Component Version:s APIVersion:s MinAPIVersion:s GitCommit:s GoVersion:s Os:s "
        "Arch:s KernelVersion:s Experimental:b BuildTime:s"
    ),
    "Component": "Name:s Version:s Details:m",
    "Empty": "",
    "Message": "Status:s ID:s From:s Type:s Action:s Actor:Actor Scope:s Time:i TimeNano:i",
    "Actor": "ID:s Attributes:m",
    "Platform": "Name:s",
    "PortBinding": "HostIP:s HostPort:s",
    "versionInfo": "Client:clientVersion Server:*ServerVersion",
    "clientVersion": "Version:s APIVersion:s DefaultAPIVersion:s GitCommit:s GoVersion:s Os:s Arch:s BuildTime:s Context:s",
}
_JSON_NAMES = {"AuxAddress": "AuxiliaryAddresses"}  # other names differ at most by case
_ROOTS = (
    ("HostConfig", "ContainerJSON"),
    ("RootFS", "ImageInspect"),
    ("IPAM", "NetworkResource"),
    ("Mountpoint", "Volume"),
    ("ServerVersion", "dockerInfo"),
    ("Server", "versionInfo"),
)


class _Nil:
    """Go's nil pointer."""

    def __bool__(self) -> bool:
        return False


NIL = _Nil()
_ZERO: dict[str, Any] = {"s": "", "b": False, "i": 0, "d": "0s", "t": "0001-01-01 00:00:00 +0000 UTC"}


class GoMap(dict[str, Any]):
    """A map: a missing key has no value, which is not an error."""


class Struct(dict[str, Any]):
    """The JSON object of a value with a type."""

    def __init__(self, kind: str, value: dict[str, Any]) -> None:
        super().__init__(value)
        self.kind = kind

    def has(self, name: str) -> bool:
        """Whether the type, or the JSON object, has the field."""
        return name in self or _kind(self.kind, name) is not None

    def field(self, name: str) -> Any:
        """A field by Go's name or by its name in JSON."""
        kind = _kind(self.kind, name)
        if kind is None:
            return self[name]
        if kind.startswith("+"):
            return Struct(kind[1:], self)
        return _converted(kind, self._raw(name))

    def _raw(self, name: str) -> Any:
        if name in self:
            return self[name]
        lower = _JSON_NAMES.get(name, name).lower()
        return next((value for key, value in self.items() if key.lower() == lower), None)

    def in_order(self) -> list[Any]:
        """The values of all fields, in the order in which Go prints them."""
        return [self.field(item.removeprefix("+").partition(":")[0]) for item in _TYPES[self.kind].split()]


def _kind(name: str, field: str) -> str | None:
    """The kind of a field of a type; None if the type has no such field."""
    for item in _TYPES[name].split():
        own, _, kind = item.partition(":")
        if own == field:
            return kind
        if own.startswith("+"):
            if own[1:] == field:
                return own
            if inner := _kind(own[1:], field):
                return inner
    return None


def _converted(kind: str, value: Any) -> Any:
    base, _, inner = kind.lstrip("*").partition(":")
    if value is None:
        if kind in _ZERO:
            return _ZERO[kind]
        if kind[0] in "*p":
            return NIL
        return [] if base == "l" else GoMap() if base == "m" else Struct(base, {})
    if isinstance(value, dict):
        if base in _TYPES:
            return Struct(base, value)
        return GoMap({key: _converted(inner, item) for key, item in value.items()} if inner else value)
    if isinstance(value, list) and inner:
        return [_converted(inner, item) for item in value]
    if kind == "d" and isinstance(value, int):
        from orlop_cli.values.times import go_duration

        return go_duration(value)
    if kind == "t" and isinstance(value, str):
        from orlop_cli.values.times import go_text

        return go_text(value)
    return value


def typed(value: Any) -> Any:
    """Convert a JSON document of the API to a value of its type. The keys of the document show which type it has. Other
    values are returned unchanged."""
    if isinstance(value, dict):
        for key, kind in _ROOTS:
            if key in value:
                return Struct(kind, value)
    return value
