"""`orlop push`."""

from __future__ import annotations

import sys

from orlop_cli import _auth, _progress
from orlop_cli._command import command, fail, flag, option
from orlop_cli.daemon.client import records, segment
from orlop_cli.values import platforms, references

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from orlop_cli._session import Session


@command(
    "push",
    "Upload an image to a registry",
    usage="NAME[:TAG]",
    least=1,
    most=1,
    examples=["orlop push registry.example.com/team/app:1.0", "orlop push -a registry.example.com/team/app"],
)
@flag("-a", "--all-tags", help="Push all tags of an image to the repository")
@option(
    "--platform",
    metavar="string",
    help="If the name has images for several platforms, push only this one (os/arch[/variant])",
)
@flag("--disable-content-trust", default=True, hidden=True, help="Accepted and ignored")
@flag("-q", "--quiet", help="Suppress verbose output")
def push(
    session: Session, args: tuple[str, ...], all_tags: bool, platform: str | None, quiet: bool, disable_content_trust: bool
) -> None:
    reference = references.parse(args[0])
    if all_tags and (reference.tag or reference.digest):
        fail("tag can't be used with --all-tags/-a")
    if reference.digest:
        fail("cannot push a digest reference")
    if not all_tags and not reference.tag:
        reference = reference.with_default_tag()
        if not quiet:
            print(f"Using default tag: {reference.tag}", flush=True)
    # Without the header, the daemon looks for credentials in the body
    headers = _auth.header(reference.domain) or {"X-Registry-Auth": "e30="}
    query = {"tag": reference.tag or None}
    if platform:
        query["platform"] = platforms.query_value(platform)
        session.engine.need((1, 46), "platform")
    stream = records(session.engine.open("POST", f"/images/{segment(reference.name)}/push", query, headers=headers))
    if not quiet:
        notes: list[str] = []
        _progress.show(stream, sys.stdout, lambda aux: notes.extend(_notes(aux)))
        sys.stderr.write("".join(notes))
        return
    for record in stream:
        _progress.raise_error(record)
    print(reference.canonical)


def _notes(aux: Any) -> Iterator[str]:
    """The texts in a record that are not about progress (moby's `auxprogress`)."""
    if isinstance(aux, dict) and aux.get("manifestPushedInsteadOfIndex"):
        whole, one = aux["originalIndex"]["digest"], aux["selectedManifest"]["digest"]
        yield "Note: not all platforms and attestations of this image are stored here, so only one platform was pushed:\n"
        yield f"{one} instead of {whole}\n"
