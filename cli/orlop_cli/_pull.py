"""Pulls an image, for `pull` and for `run` of a missing image."""

from __future__ import annotations

from orlop_cli import _auth, _progress
from orlop_cli.daemon.client import Engine, records

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import IO

    from orlop_cli.values import references


def pull(
    engine: Engine,
    reference: references.Reference,
    out: IO[str] | None,
    platform: str | None = None,
    all_tags: bool = False,
) -> None:
    """Pull an image, with progress on `out` (None for no progress). Raises CliError if the pull fails."""
    tag = None if all_tags else reference.digest or reference.tag
    query = {"fromImage": reference.name, "tag": tag, "platform": platform}
    answer = engine.open("POST", "/images/create", query, headers=_auth.header(reference.domain))
    stream = records(answer)
    if out is not None:
        _progress.show(stream, out)
        return
    for record in stream:
        _progress.raise_error(record)
