"""The table of all commands, and the global flags. This module imports neither commands nor click."""

from __future__ import annotations

from orlop_cli._command import Flag

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orlop_cli._command import Definition

__all__ = ["GLOBAL", "GROUPS", "TABLE", "Lazy", "find"]


class Lazy:
    """A command's location: module below orlop_cli.commands, attribute, and the help line, which can be printed without
    importing the module. A group has no module."""

    __slots__ = ("attribute", "module", "section", "summary")

    def __init__(self, module: str, attribute: str, summary: str, section: str = "Commands") -> None:
        self.module, self.attribute, self.summary, self.section = module, attribute, summary, section

    def load(self) -> Definition:
        """Import the command's module, and return the command's definition."""
        module = __import__(f"orlop_cli.commands.{self.module}", fromlist=(self.attribute,))
        found: Definition = getattr(module, self.attribute)
        return found

    def within(self, section: str) -> Lazy:
        """The same command in another section of the help."""
        return Lazy(self.module, self.attribute, self.summary, section)


COMMON, MANAGE = "Common Commands", "Management Commands"

CONTAINER = {
    "attach": Lazy("attach", "attach", "Attach local standard input, output, and error streams to a running container"),
    "commit": Lazy("commit", "commit", "Create a new image from a container's changes"),
    "cp": Lazy("cp", "cp", "Copy files/folders between a container and the local filesystem"),
    "create": Lazy("create", "create", "Create a new container"),
    "diff": Lazy("diff", "diff", "Inspect changes to files or directories on a container's filesystem"),
    "exec": Lazy("exec_", "exec_", "Execute a command in a running container"),
    "export": Lazy("tarballs", "export", "Export a container's filesystem as a tar archive"),
    "inspect": Lazy("inspect", "container", "Display detailed information on one or more containers"),
    "kill": Lazy("lifecycle", "kill", "Kill one or more running containers"),
    "logs": Lazy("logs", "logs", "Fetch the logs of one or more containers"),
    "ls": Lazy("ps", "ps", "List containers"),
    "pause": Lazy("lifecycle", "pause", "Pause all processes within one or more containers"),
    "port": Lazy("port", "port", "List port mappings or a specific mapping for the container"),
    "prune": Lazy("prune", "container", "Remove all stopped containers"),
    "rename": Lazy("lifecycle", "rename", "Rename a container"),
    "restart": Lazy("lifecycle", "restart", "Restart one or more containers"),
    "rm": Lazy("lifecycle", "rm", "Remove one or more containers"),
    "run": Lazy("run", "run", "Create and run a new container from an image"),
    "start": Lazy("start", "start", "Start one or more stopped containers"),
    "stats": Lazy("stats", "stats", "Display a live stream of container(s) resource usage statistics"),
    "stop": Lazy("lifecycle", "stop", "Stop one or more running containers"),
    "top": Lazy("top", "top", "Display the running processes of a container, or a full-screen view of everything"),
    "unpause": Lazy("lifecycle", "unpause", "Unpause all processes within one or more containers"),
    "update": Lazy("update", "update", "Update configuration of one or more containers"),
    "wait": Lazy("lifecycle", "wait", "Block until one or more containers stop, then print their exit codes"),
}
IMAGE = {
    "build": Lazy("build", "build", "Build an image from a Dockerfile"),
    "history": Lazy("history", "history", "Show the history of an image"),
    "import": Lazy("tarballs", "import_", "Import the contents from a tarball to create a filesystem image"),
    "inspect": Lazy("inspect", "image", "Display detailed information on one or more images"),
    "load": Lazy("tarballs", "load", "Load an image from a tar archive or STDIN"),
    "ls": Lazy("images", "images", "List images"),
    "prune": Lazy("prune", "image", "Remove unused images"),
    "pull": Lazy("pull", "pull", "Download an image from a registry"),
    "push": Lazy("push", "push", "Upload an image to a registry"),
    "rm": Lazy("images_edit", "rmi", "Remove one or more images"),
    "save": Lazy("tarballs", "save", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "tag": Lazy("images_edit", "tag", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
}
BUILDER = {
    "build": IMAGE["build"],
    "prune": Lazy("prune", "builder", "Remove build cache"),
}
VOLUME = {
    "create": Lazy("volume", "create", "Create a volume"),
    "inspect": Lazy("inspect", "volume", "Display detailed information on one or more volumes"),
    "ls": Lazy("volume", "ls", "List volumes"),
    "prune": Lazy("prune", "volume", "Remove unused local volumes"),
    "rm": Lazy("volume", "rm", "Remove one or more volumes"),
}
NETWORK = {
    "connect": Lazy("network", "connect", "Connect a container to a network"),
    "create": Lazy("network", "create", "Create a network"),
    "disconnect": Lazy("network", "disconnect", "Disconnect a container from a network"),
    "inspect": Lazy("inspect", "network", "Display detailed information on one or more networks"),
    "ls": Lazy("network", "ls", "List networks"),
    "prune": Lazy("prune", "network", "Remove all unused networks"),
    "rm": Lazy("network", "rm", "Remove one or more networks"),
}
SYSTEM = {
    "check": Lazy("check", "check", "Compare the daemon's database with files, monitors and the kernel"),
    "dial-stdio": Lazy("dial", "dial_stdio", "Connect standard input and output with the daemon"),
    "df": Lazy("system", "df", "Show docker disk usage"),
    "events": Lazy("events", "events", "Get real time events from the server"),
    "info": Lazy("info", "info", "Display system-wide information"),
    "prune": Lazy("prune", "system", "Remove unused data"),
}
TLS = {
    "init": Lazy("tls", "init", "Make a CA, a certificate for the daemon, and a certificate for one client"),
    "renew": Lazy("tls", "renew", "Make a new certificate for the daemon, with the same CA and names"),
}
CHECKPOINT = {
    "create": Lazy("checkpoint", "create", "Create a checkpoint from a running container"),
    "ls": Lazy("checkpoint", "ls", "List checkpoints for a container"),
    "rm": Lazy("checkpoint", "rm", "Remove a checkpoint"),
}
CONTEXT = {
    "create": Lazy("context", "create", "Create a context"),
    "export": Lazy("context", "export", "Export a context to a tar archive FILE or a tar stream on STDOUT."),
    "import": Lazy("context", "import_", "Import a context from a tar or zip file"),
    "inspect": Lazy("context", "inspect", "Display detailed information on one or more contexts"),
    "ls": Lazy("context", "ls", "List contexts"),
    "rm": Lazy("context", "rm", "Remove one or more contexts"),
    "show": Lazy("context", "show", "Print the name of the current context"),
    "update": Lazy("context", "update", "Update a context"),
    "use": Lazy("context", "use", "Set the current docker context"),
}
MANIFEST = {
    "annotate": Lazy("manifest", "annotate", "Add additional information to a local image manifest"),
    "create": Lazy("manifest", "create", "Create a local manifest list for annotating and pushing to a registry"),
    "inspect": Lazy("manifest", "inspect", "Display an image manifest, or manifest list"),
    "push": Lazy("manifest", "push", "Push a manifest list to a repository"),
    "rm": Lazy("manifest", "rm", "Delete one or more manifest lists from local storage"),
}
CONFIG = {"show": Lazy("config", "show", "Show the daemon's configuration")}
DEBUG = {"bundle": Lazy("bundle", "bundle", "Write the information for a bug report into one file, without secrets")}
LIST_ALIASES = {"list": "ls", "remove": "rm"}
PS_ALIASES = {**LIST_ALIASES, "ps": "ls"}

# Docker's top-level aliases of the commands above, and the few commands that exist only at top level.
_TOP_CONTAINER = (
    *("attach", "commit", "cp", "create", "diff", "export", "kill", "logs", "pause", "port", "rename", "restart", "rm"),
    *("start", "stats", "stop", "top", "unpause", "update", "wait"),
)
TABLE = {
    **{name: CONTAINER[name] for name in _TOP_CONTAINER},
    "run": CONTAINER["run"].within(COMMON),
    "exec": CONTAINER["exec"].within(COMMON),
    "ps": CONTAINER["ls"].within(COMMON),
    "build": IMAGE["build"].within(COMMON),
    "pull": IMAGE["pull"].within(COMMON),
    "push": IMAGE["push"].within(COMMON),
    "images": IMAGE["ls"].within(COMMON),
    "version": Lazy("version", "version", "Show the version information", COMMON),
    "info": SYSTEM["info"].within(COMMON),
    "events": SYSTEM["events"],
    "explain": Lazy("explain", "explain", "Explain why a container ended or does not start, and what uses an object"),
    "help": Lazy("help", "help_", "Show what a command does, its flags and examples"),
    "completion": Lazy(
        "completion", "completion", "Print a shell script that completes orlop's commands, flags and names of objects"
    ),
    "login": Lazy("login", "login", "Log in to a registry", COMMON),
    "logout": Lazy("login", "logout", "Log out from a registry", COMMON),
    "search": Lazy("search", "search", "Search Docker Hub for images", COMMON),
    "history": IMAGE["history"],
    "import": IMAGE["import"],
    "inspect": Lazy("inspect", "inspect", "Return low-level information on containers, images, networks and volumes"),
    "load": IMAGE["load"],
    "rmi": IMAGE["rm"],
    "save": IMAGE["save"],
    "tag": IMAGE["tag"],
    "builder": Lazy("", "builder", "Manage builds", MANAGE),
    "checkpoint": Lazy("", "checkpoint", "Manage checkpoints", MANAGE),
    "config": Lazy("", "config", "Inspect the daemon's configuration", MANAGE),
    "container": Lazy("", "container", "Manage containers", MANAGE),
    "context": Lazy("", "context", "Manage contexts", MANAGE),
    "debug": Lazy("", "debug", "Collect information for troubleshooting", MANAGE),
    "image": Lazy("", "image", "Manage images", MANAGE),
    "manifest": Lazy("", "manifest", "Manage image manifests and manifest lists", MANAGE),
    "network": Lazy("", "network", "Manage networks", MANAGE),
    "system": Lazy("", "system", "Manage the daemon's data and show its state", MANAGE),
    "tls": Lazy("", "tls", "Make certificates for a daemon on the network, and for its clients", MANAGE),
    "volume": Lazy("", "volume", "Manage volumes", MANAGE),
}

GROUPS: Mapping[str, tuple[Mapping[str, Lazy], Mapping[str, str]]] = {
    "builder": (BUILDER, {}),
    "checkpoint": (CHECKPOINT, LIST_ALIASES),
    "config": (CONFIG, {}),
    "container": (CONTAINER, PS_ALIASES),
    "context": (CONTEXT, LIST_ALIASES),
    "debug": (DEBUG, {}),
    "image": (IMAGE, LIST_ALIASES),
    "manifest": (MANIFEST, {}),
    "network": (NETWORK, LIST_ALIASES),
    "system": (SYSTEM, {}),
    "tls": (TLS, {}),
    "volume": (VOLUME, LIST_ALIASES),
}
"""The commands of each group, and their aliases."""


def _value(*names: str, help: str) -> Flag:
    return Flag(names, "", {"metavar": "string", "help": help})


def _switch(*names: str, help: str) -> Flag:
    return Flag(names, "", {"default": False, "help": help}, switch=True)


GLOBAL = [
    _value("-H", "--host", help="Daemon socket to connect to (unix://PATH, tcp://HOST:PORT)"),
    _value("--config", help="Location of client config files (default ~/.docker)"),
    _value("-c", "--context", help="Name of the context to use (overrides DOCKER_HOST and the default context)"),
    _switch("-D", "--debug", help="Print each request to the daemon and the status of its answer"),
    _value("-l", "--log-level", help="Set the logging level (debug, info, warn, error, fatal); debug is the same as -D"),
    _switch("--tls", help="Use TLS; implied by --tlsverify"),
    _value("--tlscacert", help="Trust certs signed only by this CA (default ~/.docker/ca.pem)"),
    _value("--tlscert", help="Path to TLS certificate file (default ~/.docker/cert.pem)"),
    _value("--tlskey", help="Path to TLS key file (default ~/.docker/key.pem)"),
    _switch("--tlsverify", help="Use TLS and verify the remote"),
    _switch("-v", "--version", help="Print version information and quit"),
]


def find(words: Sequence[str]) -> tuple[Lazy, Sequence[str]] | None:
    """The command at the beginning of the words, and the words after its name. None for a group, for unknown words, and for
    builds, because a plugin may run builds."""
    if not words or words[0] in ("build", "builder"):
        return None
    lazy, rest = TABLE.get(words[0]), words[1:]
    if lazy is not None and not lazy.module and rest:
        table, aliases = GROUPS[words[0]]
        lazy, rest = table.get(aliases.get(rest[0], rest[0])), rest[1:]
    return (lazy, rest) if lazy is not None and lazy.module else None
