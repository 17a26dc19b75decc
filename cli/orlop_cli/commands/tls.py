"""`orlop tls`: creates the certificates for a daemon that listens on the network. The command contacts no daemon."""

from __future__ import annotations

import json
import os

from orlop_cli._command import command, flag, many, option
from orlop_cli._errors import CliError

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session
    from orlop_cli.daemon.certificates import Pair


DIRECTORY = "/etc/orlop/tls"
CLIENT = "client"
DAYS = 825  # the longest validity that strict clients accept


def _days(days: int) -> int:
    if not 1 <= days <= 36500:
        raise CliError(f"invalid --days {days}: 1 to 36500")
    return days


@command(
    "init",
    "Make a CA, a certificate for the daemon, and a certificate for one client",
    examples=[
        "orlop tls init",
        "orlop tls init --name build.example.org --name 192.0.2.7",
        "orlop tls init --client anna      one more client, signed by the existing CA",
    ],
)
@option("--dir", "directory", metavar="string", default=DIRECTORY, help=f"Directory for the files (default {DIRECTORY})")
@many(
    "--name",
    "names",
    metavar="host|ip",
    help="Another name or address of the daemon; the machine's names and addresses are always included",
)
@option(
    "--days",
    type=int,
    default=DAYS,
    metavar="int",
    help=f"Days for which the certificates are valid (default {DAYS}); the CA is valid for ten years",
)
@option("--client", metavar="name", help="Only add a certificate for this client, signed by the CA in the directory")
@flag("--force", help="Replace existing files: with a new CA, all clients need new certificates")
def init(
    session: Session,
    args: tuple[str, ...],
    directory: str,
    names: tuple[str, ...],
    days: int,
    client: str | None,
    force: bool,
) -> None:
    from orlop_cli.daemon import certificates as made  # imported here, because the import takes 40 ms

    directory, days = os.path.abspath(directory), _days(days)
    if client is not None:
        if names:
            raise CliError("--name changes the daemon's certificate, but --client makes only a client's certificate")
        made.check_client(client)
        _add_client(directory, made.load(directory, made.CA, made.CA_KEY), client, days, force)
        print(f"Client certificate in {os.path.join(directory, client)}; to use it:\n\n" + _how(directory, client, "HOST"))
        return
    for name in names:
        made.general_name(name)
    there = [name for name in (made.CA, made.CA_KEY, made.SERVER, made.SERVER_KEY) if _exists(directory, name)]
    if there and not force:
        raise CliError(
            f"{directory} has {', '.join(there)} already. Use --client to add a client, `orlop tls renew` to "
            "renew the daemon's certificate, or --force to replace all files"
        )
    made.make_directory(directory)
    ca = made.make_ca(days)
    every = list(dict.fromkeys([*names, *made.own_names()]))
    server = made.make_server(ca, every, days)
    made.store(directory, ca, made.CA, made.CA_KEY)
    made.store(directory, server, made.SERVER, made.SERVER_KEY)
    _add_client(directory, ca, CLIENT, days, force)
    print(_report(directory, server, every))


@command(
    "renew",
    "Make a new certificate for the daemon, with the same CA and names",
    examples=["orlop tls renew && systemctl reload orlop"],
)
@option("--dir", "directory", metavar="string", default=DIRECTORY, help=f"Directory of the files (default {DIRECTORY})")
@many("--name", "names", metavar="host|ip", help="Names and addresses instead of those in the old certificate")
@option("--days", type=int, default=DAYS, metavar="int", help=f"Days for which the certificate is valid (default {DAYS})")
def renew(session: Session, args: tuple[str, ...], directory: str, names: tuple[str, ...], days: int) -> None:
    from orlop_cli.daemon import certificates as made

    directory = os.path.abspath(directory)
    ca = made.load(directory, made.CA, made.CA_KEY)
    every = list(names) or made.names_of(made.read_certificate(directory, made.SERVER))
    server = made.make_server(ca, every, _days(days))
    made.store(directory, server, made.SERVER, made.SERVER_KEY)
    print(f"{_validity(server, every)}\nTo use the new certificate, reload the daemon: systemctl reload orlop, or SIGHUP.")


def _exists(*parts: str) -> bool:
    return os.path.lexists(os.path.join(*parts))


def _add_client(directory: str, ca: Pair, name: str, days: int, force: bool) -> None:
    from orlop_cli.daemon import certificates as made

    own = os.path.join(directory, name)
    if not force and (_exists(own, "key.pem") or _exists(own, "cert.pem")):
        raise CliError(f"{own} has a certificate already; use --force to replace the certificate")
    made.make_directory(own)
    made.store(own, made.make_client(ca, name, days), "cert.pem", "key.pem")
    made.store_certificate(own, ca.certificate, "ca.pem")


def _validity(server: Pair, names: list[str]) -> str:
    until = server.certificate.not_valid_after_utc.date().isoformat()
    return f"The daemon's certificate is valid until {until} for {', '.join(names)}."


def _report(directory: str, server: Pair, names: list[str]) -> str:
    keys = {
        "hosts": ["unix:///run/orlop.sock", "tcp://0.0.0.0:2376"],
        "tlsverify": True,
        "tlscacert": os.path.join(directory, "ca.pem"),
        "tlscert": os.path.join(directory, "server-cert.pem"),
        "tlskey": os.path.join(directory, "server-key.pem"),
    }
    settings = json.dumps(keys, indent=2)
    return (
        f"Made a CA, a certificate for the daemon and one for a client in {directory}.\n{_validity(server, names)}\n"
        f"Anyone who has ca-key.pem can make client certificates, and every client can become root on this machine.\n\n"
        f"1. In /etc/orlop/daemon.json (without hosts if the systemd unit has -H), then restart orlopd:\n\n"
        f"{settings}\n\n"
        f"2. Copy {os.path.join(directory, CLIENT)} to the client's machine, and there:\n\n"
        + _how(directory, CLIENT, names[0])
    )


def _how(directory: str, client: str, host: str) -> str:
    own = os.path.join(directory, client)
    flags = f"--tlsverify --tlscacert {own}/ca.pem --tlscert {own}/cert.pem --tlskey {own}/key.pem"
    host = f"[{host}]" if ":" in host else host
    return (
        f"export DOCKER_HOST=tcp://{host}:2376 DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={own}\n"
        f"docker ps          # or: orlop ps\n\n"
        f"or without the environment: docker {flags} -H tcp://{host}:2376 ps"
    )
