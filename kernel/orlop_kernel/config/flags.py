"""The flags of `orlopd`, as a table: dockerd's names, the daemon.json keys they set, and a line of help each."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FLAGS", "Flag", "help_text"]


class Flag(NamedTuple):
    """One flag. `key` is the daemon.json key that it sets, "" for none. `kind` is the form of its value and decides how
    repeated flags are combined."""

    name: str
    key: str
    kind: str
    help: str
    short: str = ""
    hidden: bool = False


def _flag(name: str, kind: str, help: str, key: str | None = None, short: str = "", hidden: bool = False) -> Flag:
    return Flag(name, name if key is None else key, kind, help, short, hidden)


FLAGS: tuple[Flag, ...] = (
    _flag("adopt", "string", "Use the data of the stopped dockerd with this data root, unless that was done before", ""),
    _flag("add-runtime", "runtime", "Register an additional OCI runtime: name=path", "runtimes"),
    _flag("allow-direct-routing", "bool", "Accepted and ignored", hidden=True),
    _flag(
        "allow-insecure-tcp", "bool", "Listen off loopback where nobody has to show a certificate: whoever connects is root"
    ),
    _flag(
        "authorization-plugin", "list", "Plugin that is asked about every request, in this order", "authorization-plugins"
    ),
    _flag("bip", "string", "Address and subnet of the default bridge, as in 172.17.0.1/16"),
    _flag("bip6", "string", "IPv6 address and subnet of the default bridge"),
    _flag("bridge", "string", 'Attach containers to this existing bridge; "none": no default network', short="b"),
    _flag("bridge-accept-fwmark", "string", "Accepted and ignored", hidden=True),
    _flag("cdi-spec-dir", "list", "Directory with CDI files of devices (default /etc/cdi, /var/run/cdi)", "cdi-spec-dirs"),
    _flag("cgroup-parent", "string", "Parent cgroup of all containers"),
    _flag("check", "action", "Compare database, files and the kernel's state, print what does not agree and exit", ""),
    _flag(
        "config-file",
        "string",
        "Configuration file (default /etc/orlop/daemon.json, else /etc/docker/daemon.json)",
        "",
    ),
    _flag("containerd", "string", "Accepted and ignored: Orlop uses no containerd", hidden=True),
    _flag("containerd-namespace", "string", "Accepted and ignored", hidden=True),
    _flag("containerd-plugins-namespace", "string", "Accepted and ignored", "containerd-plugin-namespace", hidden=True),
    _flag("cpu-rt-period", "int", "Refused", hidden=True),
    _flag("cpu-rt-runtime", "int", "Refused", hidden=True),
    _flag("cri-containerd", "bool", "Accepted and ignored", hidden=True),
    _flag("data-root", "string", "Root directory of persistent state (default /var/lib/orlop)"),
    _flag("debug", "bool", "Enable debug mode", short="D"),
    _flag(
        "default-address-pool",
        "pool",
        "Pool that networks are cut from: base=10.10.0.0/16,size=24",
        "default-address-pools",
    ),
    _flag("deep", "action", "With --check: also read all blobs of images", ""),
    _flag("default-cgroupns-mode", "string", "Default mode of a container's cgroup namespace: host or private"),
    _flag("default-gateway", "string", "IPv4 gateway of containers on the default bridge (default: the bridge)"),
    _flag("default-gateway-v6", "string", "IPv6 gateway of containers on the default bridge"),
    _flag("default-ipc-mode", "string", "Default mode of a container's IPC namespace: shareable or private"),
    _flag("default-network-opt", "netopt", "Default network options: driver=option=value", "default-network-opts"),
    _flag("default-runtime", "string", "Default OCI runtime of containers (default runc)"),
    _flag("default-shm-size", "string", "Default size of /dev/shm (default 64M)"),
    _flag("default-stop-timeout", "int", "Seconds that a container is given to stop before it is killed (default 10)"),
    _flag("default-ulimit", "ulimit", "Default ulimits of containers: nofile=1024:2048", "default-ulimits"),
    _flag("dns", "list", "DNS servers of containers"),
    _flag("dns-opt", "list", "DNS options of containers", "dns-opts"),
    _flag("dns-search", "list", "DNS search domains of containers"),
    _flag("exec-opt", "list", "Runtime execution options: native.cgroupdriver=cgroupfs|systemd", "exec-opts"),
    _flag("exec-root", "string", "Root directory of execution state (default /run/orlop)"),
    _flag("experimental", "bool", "Tell clients that there are experimental features"),
    _flag("facts", "action", "With --check: add what a debug bundle has of this machine", ""),
    _flag("feature", "feature", "Switch a feature, name=true or name=false (buildkit)", "features"),
    _flag("firewall-backend", "string", "Firewall backend: nftables (default) or iptables, which is refused"),
    _flag("fixed-cidr", "string", "IPv4 range that containers on the default bridge get addresses from"),
    _flag("fixed-cidr-v6", "string", "IPv6 range that containers on the default bridge get addresses from"),
    _flag("group", "string", "Group that owns the unix socket (default docker)", short="G"),
    _flag("help", "action", "Print usage", "", short="h"),
    _flag(
        "host",
        "list",
        "Socket to listen on: unix://, tcp://, fd:// (default unix:///run/orlop.sock)",
        "hosts",
        "H",
    ),
    _flag("host-gateway-ip", "list", "Address that host-gateway means in --add-host", "host-gateway-ips"),
    _flag("http-proxy", "string", "HTTP proxy URL for registry traffic", "proxies.http-proxy"),
    _flag("https-proxy", "string", "HTTPS proxy URL for registry traffic", "proxies.https-proxy"),
    _flag("icc", "bool", "Allow traffic between containers on the default bridge (default true)"),
    _flag("init", "bool", "Run an init in every container that forwards signals and reaps processes"),
    _flag("init-path", "string", "Path of that init"),
    _flag("insecure-registry", "list", "Registry that may be spoken to without TLS", "insecure-registries"),
    _flag("ip", "string", "Default host address of published ports (default 0.0.0.0)"),
    _flag("ip-forward", "bool", "Enable IP forwarding on the host (default true)"),
    _flag("ip-forward-no-drop", "bool", "Accepted and ignored: it is never changed", hidden=True),
    _flag("ip-masq", "bool", "Masquerade traffic that leaves the default bridge (default true)"),
    _flag("ip6tables", "bool", "Accepted and ignored: goes with --iptables", hidden=True),
    _flag("iptables", "bool", "Add firewall rules (default true); Orlop's are nftables rules"),
    _flag("ipv6", "bool", "Enable IPv6 on the default bridge"),
    _flag("label", "list", "Set key=value labels of the daemon", "labels"),
    _flag("live-restore", "bool", "Leave containers running while the daemon is down"),
    _flag("log-driver", "string", "Default log driver of containers (default json-file)"),
    _flag("log-format", "string", "Format of the daemon's own log: text or json"),
    _flag("log-level", "string", "Level of the daemon's own log: debug, info, warn, error, fatal (default info)", short="l"),
    _flag("log-opt", "map", "Default log options of containers: key=value", "log-opts"),
    _flag("max-concurrent-downloads", "int", "Concurrent layer downloads of a pull (default 3)"),
    _flag("max-concurrent-uploads", "int", "Concurrent layer uploads of a push (default 5)"),
    _flag("max-download-attempts", "int", "Attempts at each layer of a pull (default 5)"),
    _flag("metrics-addr", "string", "Address to serve metrics for Prometheus at: 127.0.0.1:9323"),
    _flag("mtu", "int", "MTU of the default bridge (default 1500)"),
    _flag("network-control-plane-mtu", "int", "Accepted and ignored (swarm)", hidden=True),
    _flag("network-diagnostic-port", "int", "Accepted and ignored", hidden=True),
    _flag("no-new-privileges", "bool", "Set no-new-privileges for new containers"),
    _flag("no-proxy", "string", "Hosts that are reached without a proxy", "proxies.no-proxy"),
    _flag("node-generic-resource", "list", "Accepted and ignored (swarm)", "node-generic-resources", hidden=True),
    _flag("pidfile", "string", "File for the daemon's process id (default /run/orlop.pid)", short="p"),
    _flag("raw-logs", "bool", "Daemon log lines without colours (they never have any)"),
    _flag("registry-mirror", "list", "Mirror of Docker Hub to prefer", "registry-mirrors"),
    _flag("repair", "action", "With --check: remove what belongs to nothing; user data is never touched", ""),
    _flag("rootless", "bool", "Refused: Orlop runs as root", hidden=True),
    _flag("seccomp-profile", "string", "Path of a seccomp profile, or unconfined (default: the built-in one)"),
    _flag("selinux-enabled", "bool", "Refused", hidden=True),
    _flag("show-config", "show", "Print every key, its value and where it comes from, and exit: text (default) or json", ""),
    _flag("shutdown-timeout", "int", "Seconds that containers have to stop when the daemon does (default 15)"),
    _flag("storage-driver", "string", "Storage driver to use (default overlay2)", short="s"),
    _flag("storage-opt", "list", "Storage driver options: DRIVER.NAME=VALUE", "storage-opts"),
    _flag("swarm-default-advertise-addr", "string", "Accepted and ignored (swarm)", hidden=True),
    _flag("tls", "bool", "Use TLS on tcp:// sockets, and verify clients unless --tlsverify=false; implied by --tlsverify"),
    _flag("tlscacert", "string", "Trust clients with certificates signed by this CA only (default ~/.docker/ca.pem)"),
    _flag("tlscert", "string", "TLS certificate file (default ~/.docker/cert.pem)"),
    _flag("tlskey", "string", "TLS key file (default ~/.docker/key.pem)"),
    _flag("tlsverify", "bool", "Use TLS and verify clients; =false: encrypt only"),
    _flag("userland-proxy", "bool", "Accepted and ignored: no proxy program is used", hidden=True),
    _flag("userland-proxy-path", "string", "Accepted and ignored: Orlop has no proxy program", hidden=True),
    _flag("userns-remap", "string", "Refused", hidden=True),
    _flag("validate", "action", "Validate the configuration, print the verdict and exit", ""),
    _flag("version", "action", "Print version information and quit", "", short="v"),
)


def help_text() -> str:
    lines = [
        "Usage:  orlopd [OPTIONS]",
        "",
        "A container engine that serves the Docker Engine API.",
        "",
        "Every option but --config-file, --validate, --show-config, --help and --version may instead stand in the",
        "configuration file, under the same name (lists in the plural); one that stands in both is an error. To try out",
        "a second daemon:",
        "",
        "  orlopd --data-root /tmp/o/data --exec-root /tmp/o/run -H unix:///tmp/o/orlop.sock",
        "",
        "Options:",
    ]
    words = {"bool": "", "action": "", "show": "[=json]", "int": " int", "string": " string"}
    rows = []
    for flag in FLAGS:
        if not flag.hidden:
            short = f"-{flag.short}, " if flag.short else "    "
            rows.append((f"  {short}--{flag.name}{words.get(flag.kind, ' ' + flag.kind)}", flag.help))
    width = max(len(left) for left, _ in rows) + 2
    return "\n".join([*lines, *(left.ljust(width) + right for left, right in rows), ""])
