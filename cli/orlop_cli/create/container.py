"""Creates the container of `run` and `create`: pulls a missing image, prints warnings, writes the cidfile."""

from __future__ import annotations

import sys

from orlop_cli import _config
from orlop_cli._errors import ApiError, CliError
from orlop_cli.create import body

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from orlop_cli.daemon.client import Engine


def create(engine: Engine, options: dict[str, Any], image: str, words: Sequence[str], detach: bool = False) -> str:
    """Create the container and return its ID."""
    if not options["cidfile"]:
        return _create(engine, options, image, words, detach)
    with _cidfile(options["cidfile"]) as write:
        made = _create(engine, options, image, words, detach)
        try:
            write(made.encode())
        except CliError as error:
            raise CliError(f"{error.message}; container {made} has been created", error.code) from None
    return made


def _cidfile(path: str) -> AbstractContextManager[Callable[[bytes], object]]:
    """Create the file before the container, so that no unknown container is left if the file cannot be written. An existing
    file is an error, because it probably belongs to another container."""
    from orlop_cli.files.outputs import new_file

    taken = f"container ID file found, make sure the other container isn't running or delete {path}"
    return new_file(path, code=125, exists=taken)


def _create(engine: Engine, options: dict[str, Any], image: str, words: Sequence[str], detach: bool) -> str:
    query, document = request(engine, options, image, words, detach)
    if options["pull"] == "always":
        _fetch(engine, options, image)
    try:
        made = engine.post("/containers/create", query, document)
    except ApiError as error:
        if not _image_missing(error, options):
            raise
        if not options["quiet"]:
            print(f"Unable to find image '{_tagged(image)}' locally", file=sys.stderr)
        try:
            _fetch(engine, options, image)
        except CliError as refused:
            from orlop_cli._suggest import image_hint

            refused.message += image_hint(engine, image)
            raise
        made = engine.post("/containers/create", query, document)
    for warning in made.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    return str(made["Id"])


def request(
    engine: Engine, options: dict[str, Any], image: str, words: Sequence[str], detach: bool
) -> tuple[dict[str, str | int | list[str] | None], dict[str, Any]]:
    """The query and the body of the create request."""
    need = body.needed_version(options)
    if need is not None:
        engine.need(*need)
    document = body.build(options, image, words, engine.version, detach)
    _add_proxies(document, _config.proxy_environment(engine.address.text))
    return {"name": options["name"], "platform": options["platform"]}, document


def _add_proxies(document: dict[str, Any], proxies: dict[str, str]) -> None:
    """Add proxy variables that the user has not set. `-e HTTP_PROXY=` with an empty value counts as set."""
    given = document.get("Env") or []
    names = {item.partition("=")[0] for item in given}
    added = [f"{name}={value}" for name, value in proxies.items() if name not in names]
    if added:
        document["Env"] = [*given, *added]


def _image_missing(error: ApiError, options: dict[str, Any]) -> bool:
    """Whether the image is missing. This depends on the text of the error, because a missing network or volume is a 404,
    too."""
    return error.status == 404 and options["pull"] == "missing" and "no such image" in error.text.lower()


def _tagged(image: str) -> str:
    from orlop_cli.values import references

    reference = references.parse(image).with_default_tag()
    return f"{reference.name}@{reference.digest}" if reference.digest else f"{reference.name}:{reference.tag}"


def _fetch(engine: Engine, options: dict[str, Any], image: str) -> None:
    from orlop_cli import _pull
    from orlop_cli.values import references

    reference = references.parse(image).with_default_tag()
    _pull.pull(engine, reference, None if options["quiet"] else sys.stderr, options["platform"])


def start_code(error: CliError) -> int:
    """Docker's exit code for a failed create or start. It depends on the text of the error (toStatusError in docker/cli)."""
    text = error.message.lower()
    if any(
        hint in text for hint in ("executable file not found", "no such file or directory", "system cannot find the file")
    ):
        return 127
    if "permission denied" in text or "is a directory" in text:
        return 126
    return 125
