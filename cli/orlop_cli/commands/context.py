"""`orlop context`: the settings of daemons by name, in docker's context store."""

from __future__ import annotations

import os
import sys

from orlop_cli import _config
from orlop_cli._command import command, complain, flag, many, option
from orlop_cli._errors import CliError, Exit, UsageProblem
from orlop_cli.daemon import contexts, hosts
from orlop_cli.tables.format import print_rows, render_values
from orlop_cli.tables.row import Row
from orlop_cli.tables.table import ellipsis
from orlop_cli.values import jsontext

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any

    from orlop_cli._session import Session

HEADERS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "DockerEndpoint": "DOCKER ENDPOINT",
    "Error": "ERROR",
    "Current": "CURRENT",
}
_DESCRIPTION = "Current DOCKER_HOST based configuration"
_OVERRIDE = "either set the global --context flag, or unset {} environment variable."
_TLS_KEYS = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
_KEYS = ("from", "host", "skip-tls-verify", *_TLS_KEYS)


class Line(Row):
    """One context of the list."""

    FIELDS = ("Name", "Description", "DockerEndpoint", "Current", "Error", "ContextType")

    def __init__(self, name: str, active: bool, description: str = "", host: str = "", error: str = "") -> None:
        self._name, self._active, self._description, self._host, self._error = name, active, description, host, error

    def Name(self) -> str:  # noqa: N802 - the placeholders' names
        return self._name

    def Marked(self) -> str:  # noqa: N802
        return f"{self._name} *" if self._active else self._name

    def Description(self) -> str:  # noqa: N802
        return self._description

    def DockerEndpoint(self) -> str:  # noqa: N802
        return self._host

    def Current(self) -> bool:  # noqa: N802
        return self._active

    def Error(self) -> str:  # noqa: N802
        return ellipsis(self._error, 45)

    def ContextType(self) -> str:  # noqa: N802
        return "moby"


def _default_host() -> str:
    return os.environ.get("ORLOP_HOST") or os.environ.get("DOCKER_HOST") or hosts.DEFAULT_HOST


def _lines(active: str) -> list[Line]:
    found = [Line(contexts.DEFAULT, active == contexts.DEFAULT, _DESCRIPTION, _default_host())]
    for name in contexts.names():
        try:
            context = contexts.read(name)
            found.append(Line(name, name == active, context.description, context.host))
        except CliError as error:
            found.append(Line(name, name == active, error=error.message))
    if active not in (contexts.DEFAULT, *contexts.names()):
        found.append(Line(active, True, error=_missing(active)))
    return sorted(found, key=Line.Name)


def _missing(name: str) -> str:
    try:
        contexts.read(name)
    except CliError as error:
        return error.message
    return ""


@command("ls", "List contexts", examples=["orlop context ls", "orlop context ls --format '{{.Name}}: {{.DockerEndpoint}}'"])
@option("--format", "form", metavar="string", help="'table', 'table TEMPLATE', 'json', or a Go template")
@flag("-q", "--quiet", help="Only show context names")
def ls(session: Session, args: tuple[str, ...], form: str | None, quiet: bool) -> None:
    active, source = contexts.current(session.context)
    columns = ("Marked", "Description", "DockerEndpoint", "Error")
    print_rows(_lines(active), columns, {**HEADERS, "Marked": "NAME"}, form, "Name" if quiet else "")
    if source.endswith("_HOST"):
        _warn(f"Warning: {source} environment variable overrides the active context. To use a context, ", source)


def _warn(text: str, variable: str) -> None:
    sys.stdout.flush()
    print(text + _OVERRIDE.format(variable), file=sys.stderr)


@command("show", "Print the name of the current context", examples=["orlop context show"])
def show(session: Session, args: tuple[str, ...]) -> None:
    print(contexts.current(session.context)[0])


@command("use", "Set the current docker context", usage="CONTEXT", least=1, most=1, examples=["orlop context use server"])
def use(session: Session, args: tuple[str, ...]) -> None:
    name = args[0]
    if name != contexts.DEFAULT:
        contexts.read(name)
    document = dict(_config.load())
    before = document.pop("currentContext", "")
    if name != contexts.DEFAULT:
        document["currentContext"] = name
    if (document.get("currentContext") or "") != before:
        _config.save(document)
    print(name)
    sys.stdout.flush()
    print(f'Current context is now "{name}"', file=sys.stderr)
    variable = next((each for each in ("ORLOP_HOST", "DOCKER_HOST") if os.environ.get(each)), None)
    if variable and name != contexts.DEFAULT:
        _warn(f'Warning: {variable} environment variable overrides the active context. To use "{name}", ', variable)


@command(
    "rm",
    "Remove one or more contexts",
    usage="CONTEXT [CONTEXT...]",
    least=1,
    most=None,
    examples=["orlop context rm old-server"],
)
@flag("-f", "--force", help="Force the removal of a context in use")
def rm(session: Session, args: tuple[str, ...], force: bool) -> None:
    failed = False
    for name in args:
        try:
            _remove(session, name, force)
            print(name, flush=True)
        except CliError as error:
            complain(error)
            failed = True
    if failed:
        raise Exit(1)


def _remove(session: Session, name: str, force: bool) -> None:
    if name == contexts.DEFAULT:
        raise CliError('default: context "default" cannot be removed')
    if contexts.current(session.context)[0] == name:
        if not force:
            raise CliError(f'context "{name}" is in use, set -f flag to force remove')
        if _config.text("currentContext") == name:
            _config.save({key: value for key, value in _config.load().items() if key != "currentContext"})
    if force and not contexts.exists(name):
        return
    contexts.remove(name)


@command(
    "inspect",
    "Display detailed information on one or more contexts",
    usage="[CONTEXT] [CONTEXT...]",
    most=None,
    examples=["orlop context inspect -f '{{.Endpoints.docker.Host}}' server"],
)
@option("-f", "--format", "form", metavar="string", help="'json', or a Go template")
def inspect(session: Session, args: tuple[str, ...], form: str | None) -> None:
    found: list[Any] = []
    problems = []
    for name in args or (contexts.current(session.context)[0],):
        try:
            found.append(_document(name))
        except CliError as error:
            problems.append(error)
    if form == "json":
        print(jsontext.dumps(found, False, compact=True))
    elif form:
        sys.stdout.write(render_values(found, form))
    else:
        print(jsontext.indented(found))
    for problem in problems:
        complain(problem)
    if problems:
        raise Exit(1)


def _document(name: str) -> dict[str, Any]:
    if name == contexts.DEFAULT:
        endpoint = {"Host": _default_host(), "SkipTLSVerify": False}
        storage = {"MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>"}
        return {"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}, "TLSMaterial": {}, "Storage": storage}
    context = contexts.read(name)
    files = sorted(context.tls_files())
    return {
        "Name": name,
        "Metadata": context.document.get("Metadata") or {},
        "Endpoints": {"docker": {"Host": context.host, "SkipTLSVerify": bool(context.endpoint.get("SkipTLSVerify"))}},
        "TLSMaterial": {"docker": files} if files else {},
        "Storage": {"MetadataPath": context.meta_path, "TLSPath": context.tls_path},
    }


def _settings(given: tuple[str, ...]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for text in given:
        for item in text.split(","):
            key, equals, value = item.partition("=")
            if not equals:
                wrong = f"{item} must be formatted as key=value"
                raise UsageProblem(f'invalid argument "{text}" for "--docker" flag: {wrong}', 125)
            settings[key] = value
    return settings


def _endpoint(settings: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The document of an endpoint and its TLS files."""
    unknown = sorted(set(settings) - set(_KEYS))
    if unknown:
        raise CliError(f"{unknown[0]}: unrecognized config key")
    if "from" in settings:
        if settings["from"] == contexts.DEFAULT:
            return {"Host": _default_host(), "SkipTLSVerify": False}, {}
        context = contexts.read(settings["from"])
        return context.endpoint, _tls(context)
    skip = settings.get("skip-tls-verify", "false").lower()
    if skip not in ("true", "false", "1", "0", "t", "f"):
        raise CliError(f"skip-tls-verify: parsing {settings['skip-tls-verify']!r}: invalid syntax")
    files = {_TLS_KEYS[key]: _file(path) for key, path in settings.items() if key in _TLS_KEYS and path}
    if ("cert.pem" in files) != ("key.pem" in files):
        raise CliError("invalid docker endpoint options: cert and key belong together")
    return {"Host": settings.get("host") or hosts.DEFAULT_HOST, "SkipTLSVerify": skip in ("true", "1", "t")}, files


def _file(path: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            content = file.read()
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    if b"-----BEGIN " not in content:
        raise CliError(f"invalid docker endpoint options: failed to retrieve context tls info: {path} seems invalid")
    return content


def _tls(context: contexts.Context) -> dict[str, bytes]:
    found = {}
    for name, path in context.tls_files().items():
        with open(path, "rb") as file:
            found[name] = file.read()
    return found


def _made(settings: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    try:
        return _endpoint(settings)
    except CliError as error:
        raise CliError(f"unable to create docker endpoint config: {error.message}") from None


_DOCKER = "host=ADDRESS, ca=FILE, cert=FILE, key=FILE, skip-tls-verify=true; or from=CONTEXT"


@command(
    "create",
    "Create a context",
    usage="CONTEXT",
    least=1,
    most=1,
    examples=[
        "orlop context create server --docker host=ssh://me@server",
        "orlop context create tls --docker host=tcp://server:2376,ca=ca.pem,cert=cert.pem,key=key.pem",
    ],
)
@option("--description", metavar="string", help="Description of the context")
@many("--docker", metavar="stringToString", help=f"Set the docker endpoint: {_DOCKER}")
@option("--from", "source", metavar="string", help="Create context from a named context")
def create(
    session: Session, args: tuple[str, ...], description: str | None, docker: tuple[str, ...], source: str | None
) -> None:
    name = args[0]
    settings = _settings(docker)
    contexts.check_name(name)
    if contexts.exists(name):
        raise CliError(f'context "{name}" already exists')
    if source and not settings:
        settings = {"from": source}
        description = description or (contexts.read(source).description if source != contexts.DEFAULT else None)
    if not settings:
        settings = {"from": contexts.current(session.context)[0]}
    endpoint, tls = _made(settings)
    metadata = {"Description": description} if description else {}
    contexts.write(contexts.Context(name, {"Name": name, "Metadata": metadata, "Endpoints": {"docker": endpoint}}), tls)
    _done(name, "created")


def _done(name: str, action: str) -> None:
    print(name, flush=True)
    print(f'Successfully {action} context "{name}"', file=sys.stderr)


@command(
    "update",
    "Update a context",
    usage="CONTEXT",
    least=1,
    most=1,
    examples=["orlop context update server --description 'the new one' --docker host=ssh://me@new"],
)
@option("--description", metavar="string", help="Description of the context")
@many("--docker", metavar="stringToString", help=f"Set the docker endpoint: {_DOCKER}")
def update(session: Session, args: tuple[str, ...], description: str | None, docker: tuple[str, ...]) -> None:
    settings = _settings(docker)
    contexts.check_name(args[0])
    context = contexts.read(args[0])
    document = dict(context.document)
    if description is not None:
        rest = {key: value for key, value in (document.get("Metadata") or {}).items() if key != "Description"}
        document["Metadata"] = {"Description": description, **rest} if description else rest
    tls = None
    if settings:
        endpoint, tls = _made(settings)
        document["Endpoints"] = {**(document.get("Endpoints") or {}), "docker": endpoint}
    contexts.write(contexts.Context(args[0], document), tls)
    _done(args[0], "updated")


@command(
    "export",
    "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    usage="CONTEXT [FILE|-]",
    least=1,
    most=2,
    examples=["orlop context export server", "orlop context export server - | ssh other orlop context import server -"],
)
def export(session: Session, args: tuple[str, ...]) -> None:
    from orlop_cli.files import context_archive

    if args[0] != contexts.DEFAULT:
        contexts.check_name(args[0])
    context = contexts.read(args[0]) if args[0] != contexts.DEFAULT else contexts.Context(args[0], _default_document())
    context_archive.export(context, _tls(context), args[1] if len(args) > 1 else f"{args[0]}.dockercontext")


def _default_document() -> dict[str, Any]:
    endpoint = {"Host": _default_host(), "SkipTLSVerify": False}
    return {"Name": contexts.DEFAULT, "Metadata": {}, "Endpoints": {"docker": endpoint}}


@command(
    "import",
    "Import a context from a tar or zip file",
    usage="CONTEXT FILE|-",
    least=2,
    most=2,
    examples=["orlop context import server server.dockercontext"],
)
def import_(session: Session, args: tuple[str, ...]) -> None:
    from orlop_cli.files import context_archive

    contexts.check_name(args[0])
    if contexts.exists(args[0]):
        raise CliError(f'context "{args[0]}" already exists')
    document, tls = context_archive.read(args[1])
    contexts.write(contexts.Context(args[0], {**document, "Name": args[0]}), tls)
    _done(args[0], "imported")
