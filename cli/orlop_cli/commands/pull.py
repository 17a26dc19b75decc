"""`orlop pull`."""

from __future__ import annotations

import sys

from orlop_cli import _pull
from orlop_cli._command import command, fail, flag, option
from orlop_cli.values import references

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli._session import Session


@command(
    "pull",
    "Download an image from a registry",
    usage="NAME[:TAG|@DIGEST]",
    least=1,
    most=1,
    examples=["orlop pull alpine:3.20", "orlop pull -q registry.example.com/team/app@sha256:..."],
)
@flag("-a", "--all-tags", help="Download all tagged images in the repository")
@option(
    "--platform", metavar="string", envvar="DOCKER_DEFAULT_PLATFORM", help="Platform if server is multi-platform capable"
)
@flag("--disable-content-trust", default=True, hidden=True, help="Accepted and ignored")
@flag("-q", "--quiet", help="Suppress verbose output")
def pull(
    session: Session, args: tuple[str, ...], all_tags: bool, platform: str | None, quiet: bool, disable_content_trust: bool
) -> None:
    reference = references.parse(args[0])
    if all_tags and (reference.tag or reference.digest):
        fail("tag can't be used with --all-tags/-a")
    if not all_tags and not (reference.tag or reference.digest):
        reference = reference.with_default_tag()
        if not quiet:
            print(f"Using default tag: {reference.tag}", flush=True)
    _pull.pull(session.engine, reference, None if quiet else sys.stdout, platform, all_tags)
    print(reference.canonical)
