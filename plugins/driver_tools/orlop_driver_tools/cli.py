"""`orlop driver`: a group of commands of the client. It works on the Python environment in which it is installed. Only
`list` asks the daemon, and works without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from orlop_sdk import OrlopError

from . import check, listing, new

__all__ = ["driver"]

_KINDS = click.Choice(sorted(new.KINDS))


@click.group("driver", short_help="List installed drivers; make a new driver and test it")
def driver() -> None:
    """List the drivers that are installed on this machine, make a new driver, and test it.

    The commands look into the Python environment of this client. If orlopd has another environment, run the client of that
    environment.
    """


@driver.command("list", short_help="List the drivers that are installed on this machine")
@click.option("--format", "form", type=click.Choice(["json"]), help="'json': print JSON instead of a table")
def list_drivers(form: str | None) -> None:
    """List the installed drivers, with the distributions that contain them. The column STATE says why a driver cannot be
    loaded, or why the daemon of this machine does not call it.

    \b
    Examples:
      orlop driver list
    """
    found = listing.with_degraded(listing.installed(), _in_use(click.get_current_context().obj))
    if form == "json":
        click.echo(msgspec.json.format(msgspec.json.encode([each._asdict() for each in found]), indent=2).decode())
    else:
        click.echo(listing.table(found))


def _in_use(session: Any) -> list[dict[str, str]]:
    """The drivers that the daemon uses. Empty without a daemon, for a daemon on another machine, and for dockerd. `session`
    is the client's session; None outside of the client."""
    if session is None:
        return []
    try:
        if not session.address.path:  # the address is not a unix socket
            return []
        return list(session.engine.get("/info").get("OrlopDrivers") or ())
    except Exception:  # the list of installed drivers needs no daemon; other commands show the daemon's errors
        return []


@driver.command("new", short_help="Write the project of a new driver, which works and passes its tests")
@click.argument("kind", type=_KINDS)
@click.argument("name")
@click.option("--service", is_flag=True, help="Make a log driver that sends the log to a service over the network")
@click.option("--directory", metavar="PATH", help="Where to write the project (default: ./orlop-KIND-NAME)")
def new_driver(kind: str, name: str, service: bool, directory: str | None) -> None:
    """Write the project of a new driver: the driver, a test with the conformance suite, pyproject.toml and README.md. The
    driver works and passes the suite; change it step by step.

    \b
    Examples:
      orlop driver new volume zfs
      orlop driver new log --service loki
    """
    try:
        made = new.project(kind, name, service=service)
        target = Path(directory or made.distribution)
        made.write(target)
    except OrlopError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot write the driver: {error}") from None
    click.echo(f"The driver is in {target}:")
    for each in made.files:
        click.echo(f"  {each}")
    click.echo(f"{target / 'README.md'} says how to install and test it.")


def _pairs(options: tuple[str, ...]) -> list[tuple[str, str]]:
    for option in options:
        if "=" not in option:
            raise click.ClickException(f"invalid option {option}: NAME=VALUE is needed")
    return [(option.partition("=")[0], option.partition("=")[2]) for option in options]


@driver.command("check", short_help="Run the conformance tests for an installed driver")
@click.argument("name")
@click.option("--kind", type=_KINDS, help="Kind of the driver, if drivers of several kinds have this name")
@click.option(
    "-o", "--opt", "options", multiple=True, metavar="NAME=VALUE", help="An option that a log or storage driver needs"
)
@click.option("--path", default="", help="The program that a runtime driver runs (default: the program NAME)")
@click.option("--tests", metavar="FILE", help="Run this file of tests instead of the suite, for drivers that need a service")
@click.option(
    "--directory", metavar="PATH", help="Where the driver stores files during the tests (default for root: a tmpfs)"
)
@click.option("--timeout", default=120.0, metavar="SECONDS", help="Kill the tests after this time (default: 120)")
@click.option("-v", "--verbose", is_flag=True, help="Print the whole text of each failure")
def check_driver(
    name: str,
    kind: str | None,
    options: tuple[str, ...],
    path: str,
    tests: str | None,
    directory: str | None,
    timeout: float,
    verbose: bool,
) -> None:
    """Run the conformance tests of the SDK for an installed driver. The exit code is 1 if a test fails.

    As root, the tests run in new mount, network and process namespaces, which end with the command. Network and runtime
    drivers need root. The tests need pytest.

    \b
    Examples:
      orlop driver check json-file
      sudo orlop driver check overlay2 --directory /var/tmp
      orlop driver check loki --tests tests/test_loki.py
    """
    pairs = _pairs(options)
    if tests and not os.path.isfile(tests):
        raise click.ClickException(f"cannot run {tests}: no such file")
    if directory and not os.path.isdir(directory):
        raise click.ClickException(f"cannot use {directory}: no such directory")
    try:
        found = check.which_kind(name, kind or "")
        result = check.run(
            name,
            found,
            options=pairs,
            path=path,
            tests=os.path.abspath(tests) if tests else "",
            directory=os.path.abspath(directory) if directory else "",
            timeout=timeout,
        )
    except OrlopError as error:
        raise click.ClickException(str(error)) from None
    click.echo(check.describe(result, found, name, verbose=verbose))
    if not result.ok:
        raise click.exceptions.Exit(1)
