"""`orlop login` and `orlop logout`."""

from __future__ import annotations

import sys

from orlop_cli import _auth, _config
from orlop_cli._command import command, flag, option
from orlop_cli._errors import ApiError, CliError
from orlop_cli.values.references import HUB_KEY

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session

_HUB_NAMES = ("", "docker.io", "index.docker.io", "registry-1.docker.io", HUB_KEY)


def registry_key(server: str) -> str:
    """The key of a registry in config.json: its host and port; for Docker Hub a URL."""
    if server in _HUB_NAMES:
        return HUB_KEY
    return server.removeprefix("https://").removeprefix("http://").partition("/")[0]


@command(
    "login",
    "Log in to a registry",
    usage="[SERVER]",
    most=1,
    examples=[
        "orlop login registry.example.com                          asks for the user name and the password",
        "orlop login -u me --password-stdin ghcr.io <token-file    in a script",
    ],
)
@option("-p", "--password", metavar="string", help="Password")
@flag("--password-stdin", help="Take the password from stdin")
@option("-u", "--username", metavar="string", help="Username")
def login(session: Session, args: tuple[str, ...], password: str | None, password_stdin: bool, username: str | None) -> None:
    key = registry_key(args[0] if args else "")
    password = _checked(password, password_stdin, username)
    if not username and not password and _with_stored(session, key):
        return
    credentials = _asked(key, username, password)
    answer = session.engine.post("/auth", body={**credentials, "serveraddress": key})
    _finish(key, credentials, answer)


def _checked(password: str | None, from_stdin: bool, username: str | None) -> str | None:
    if password:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    if not from_stdin:
        return password
    if password:
        raise CliError("--password and --password-stdin are mutually exclusive")
    if not username:
        raise CliError("Must provide --username with --password-stdin")
    return sys.stdin.read().rstrip("\r\n")


def _with_stored(session: Session, key: str) -> bool:
    """Log in with stored credentials. False if none are stored, or the registry refuses them."""
    stored = _auth.lookup(key, missing_helper_ok=True)
    if not stored:
        return False
    print("Authenticating with existing credentials...", flush=True)
    try:
        answer = session.engine.post("/auth", body={**stored, "serveraddress": key})
    except ApiError as error:
        print(f"Login did not succeed, error: {error.message}", file=sys.stderr)
        return False
    _finish(key, stored, answer)
    return True


def _asked(key: str, username: str | None, password: str | None) -> dict[str, str]:
    if not (username and password) and not sys.stdin.isatty():
        raise CliError("Error: Cannot perform an interactive login from a non TTY device")
    if not username:
        if key == HUB_KEY:
            print("Log in with your Docker ID or email address to push and pull images from Docker Hub.")
        try:
            username = input("Username: ").strip()
        except EOFError:
            raise CliError("error while reading input: EOF") from None
        if not username:
            raise CliError("Error: Non-null Username Required")
    if not password:
        import getpass

        try:
            password = getpass.getpass("Password: ")
        except EOFError:
            raise CliError("error while reading input: EOF") from None
    if not password:
        raise CliError("Error: Password Required")
    return {"username": username, "password": password}


def _finish(key: str, credentials: dict[str, str], answer: dict[str, str] | None) -> None:
    token = (answer or {}).get("IdentityToken")
    _auth.store(key, {"username": credentials.get("username", ""), "identitytoken": token} if token else credentials)
    if not _auth.helper_of(key):
        sys.stdout.flush()
        print(
            f"WARNING! Your password will be stored unencrypted in {_config.file_path()}.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n",
            file=sys.stderr,
        )
    print((answer or {}).get("Status") or "Login Succeeded")


@command("logout", "Log out from a registry", usage="[SERVER]", most=1, examples=["orlop logout registry.example.com"])
def logout(session: Session, args: tuple[str, ...]) -> None:
    key = registry_key(args[0] if args else "")
    print(f"Removing login credentials for {key}", flush=True)
    # Older versions of docker stored a URL.
    keys = [key] if key == HUB_KEY else [key, f"http://{key}", f"https://{key}", *args]
    for each in dict.fromkeys(keys):
        try:
            _auth.erase(each)
        except CliError as error:
            print(f"WARNING: could not erase credentials: {error.message}", file=sys.stderr)
