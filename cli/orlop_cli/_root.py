"""The table of all commands, and the root command with its global flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from orlop_cli import __version__
from orlop_cli._command import Option
from orlop_cli._errors import CliError
from orlop_cli._groups import Lazy, LazyGroup
from orlop_cli._session import Session
from orlop_cli.values.types import boolean

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
    "logs": Lazy("logs", "logs", "Fetch the logs of a container"),
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
    "top": Lazy("top", "top", "Display the running processes of a container"),
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
    "df": Lazy("system", "df", "Show docker disk usage"),
    "events": Lazy("events", "events", "Get real time events from the server"),
    "info": Lazy("info", "info", "Display system-wide information"),
    "prune": Lazy("prune", "system", "Remove unused data"),
}
TLS = {
    "init": Lazy("tls", "init", "Make a CA, a certificate for the daemon, and a certificate for one client"),
    "renew": Lazy("tls", "renew", "Make a new certificate for the daemon, with the same CA and names"),
}
CONFIG = {"show": Lazy("config", "show", "Show the daemon's configuration")}
DEBUG = {"bundle": Lazy("bundle", "bundle", "Write the information for a bug report into one file, without secrets")}
LIST_ALIASES = {"list": "ls", "remove": "rm"}
PS_ALIASES = {**LIST_ALIASES, "ps": "ls"}

# Docker's top-level aliases of the commands above, and the few that exist only at top level.
_TOP_CONTAINER = (
    *("attach", "commit", "cp", "create", "diff", "export", "kill", "logs", "pause", "port", "rename", "restart", "rm"),
    *("start", "stats", "stop", "top", "unpause", "update", "wait"),
)
TABLE = {
    **{name: CONTAINER[name] for name in _TOP_CONTAINER},
    "run": CONTAINER["run"]._replace(section=COMMON),
    "exec": CONTAINER["exec"]._replace(section=COMMON),
    "ps": CONTAINER["ls"]._replace(section=COMMON),
    "build": IMAGE["build"]._replace(section=COMMON),
    "pull": IMAGE["pull"]._replace(section=COMMON),
    "push": IMAGE["push"]._replace(section=COMMON),
    "images": IMAGE["ls"]._replace(section=COMMON),
    "version": Lazy("version", "version", "Show the version information", COMMON),
    "info": SYSTEM["info"]._replace(section=COMMON),
    "events": SYSTEM["events"],
    "help": Lazy("help", "help_", "Show what a command does, its flags and examples"),
    "completion": Lazy(
        "completion", "completion", "Print a script for the shell that completes commands, flags and names of orlop"
    ),
    "history": IMAGE["history"],
    "import": IMAGE["import"],
    "inspect": Lazy("inspect", "inspect", "Return low-level information on containers, images, networks and volumes"),
    "load": IMAGE["load"],
    "rmi": IMAGE["rm"],
    "save": IMAGE["save"],
    "tag": IMAGE["tag"],
    "builder": Lazy("groups", "builder", "Manage builds", MANAGE),
    "config": Lazy("groups", "config", "Inspect the daemon's configuration", MANAGE),
    "container": Lazy("groups", "container", "Manage containers", MANAGE),
    "debug": Lazy("groups", "debug", "Collect information for troubleshooting", MANAGE),
    "image": Lazy("groups", "image", "Manage images", MANAGE),
    "network": Lazy("groups", "network", "Manage networks", MANAGE),
    "system": Lazy("groups", "system", "Manage the daemon's data and show its state", MANAGE),
    "tls": Lazy("groups", "tls", "Make certificates for a daemon on the network, and for its clients", MANAGE),
    "volume": Lazy("groups", "volume", "Manage volumes", MANAGE),
}


_BUILDS = {"build": ("build",), "builder": ()}  # commands that run buildx if it is installed, as in docker


class Root(LazyGroup):
    """`orlop`: creates the session, then runs the command. An unknown word may be a plugin of docker's client."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from orlop_cli import _plugins

        if cmd_name in _BUILDS and _uses_buildkit():
            found = _plugins.command(cmd_name, "buildx", *_BUILDS[cmd_name])
            if found is None and os.environ.get("DOCKER_BUILDKIT"):
                raise CliError(
                    "DOCKER_BUILDKIT is set, but docker's buildx plugin is not installed (Debian: docker-buildx); "
                    "without the variable, the daemon builds from an archive of the context"
                )
            if found is not None:
                return found
        return super().get_command(ctx, cmd_name) or _plugins.command(cmd_name, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        given = ctx.params
        if given["version"]:
            click.echo(f"Orlop version {__version__}")
            return None
        if given["config"]:
            os.environ["DOCKER_CONFIG"] = given["config"]
        if given["debug"]:
            os.environ["DEBUG"] = "1"
        ctx.obj = session = session_of(given)
        try:
            return super().invoke(ctx)
        finally:
            session.close()


def session_of(flags: Mapping[str, Any]) -> Session:
    """The session that global flags describe."""
    return Session(flags["host"], flags["tls"], flags["tlsverify"], flags["tlscacert"], flags["tlscert"], flags["tlskey"])


def _uses_buildkit() -> bool:
    """Whether builds use BuildKit. As in docker: unless DOCKER_BUILDKIT is false."""
    text = os.environ.get("DOCKER_BUILDKIT", "")
    try:
        return boolean(text) if text else True
    except ValueError:
        raise CliError(f"DOCKER_BUILDKIT environment variable expects boolean value: {text!r}") from None


root = Root("orlop", "A client for the Orlop container engine, and for any Docker Engine API.", TABLE, installed=True)
root.params += [
    Option(["-H", "--host"], metavar="string", help="Daemon socket to connect to (unix://PATH, tcp://HOST:PORT)"),
    Option(["--config"], metavar="string", help="Location of client config files (default ~/.docker)"),
    Option(["-D", "--debug"], is_flag=True, help="Print each request to the daemon and the status of its answer"),
    Option(["--tls"], is_flag=True, help="Use TLS; implied by --tlsverify"),
    Option(["--tlscacert"], metavar="string", help="Trust certs signed only by this CA (default ~/.docker/ca.pem)"),
    Option(["--tlscert"], metavar="string", help="Path to TLS certificate file (default ~/.docker/cert.pem)"),
    Option(["--tlskey"], metavar="string", help="Path to TLS key file (default ~/.docker/key.pem)"),
    Option(["--tlsverify"], is_flag=True, help="Use TLS and verify the remote"),
    Option(["-v", "--version"], is_flag=True, help="Print version information and quit"),
]
