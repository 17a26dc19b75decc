"""Lists that are not yet pushed: ~/.docker/manifests/LIST/IMAGE, which docker's client reads and writes, too."""

from __future__ import annotations

import os

from orlop_cli import _config
from orlop_cli._errors import CliError
from orlop_cli.manifests.manifest import Manifest, full

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli.values.references import Reference

__all__ = ["NoSuchManifest", "find", "load", "remove", "save"]


class NoSuchManifest(CliError):
    """No list, or no image in a list, has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"No such manifest: {name}")


def _path(target: Reference, image: Reference | None = None) -> str:
    names = [full(one).replace(":", "-").replace("/", "_") for one in (target, image) if one is not None]
    return os.path.join(_config.directory(), "manifests", *names)


def find(target: Reference, image: Reference) -> Manifest:
    """An image of a list. Raises NoSuchManifest, and CliError for a file that is not a manifest."""
    try:
        return _read(_path(target, image))
    except FileNotFoundError:
        raise NoSuchManifest(full(image)) from None


def load(target: Reference) -> list[Manifest]:
    """All images of a list, in the order of their file names. Raises NoSuchManifest and CliError."""
    directory = _path(target)
    try:
        return [_read(os.path.join(directory, name)) for name in sorted(os.listdir(directory))]
    except FileNotFoundError:
        raise NoSuchManifest(full(target)) from None


def _read(path: str) -> Manifest:
    with open(path, "rb") as file:
        data = file.read()
    try:
        return Manifest.decode(data)
    except ValueError as error:
        raise CliError(f"cannot read {path}: {error}") from None


def save(target: Reference, image: Reference, manifest: Manifest) -> None:
    """Add an image to a list, or replace it. Raises OSError."""
    import tempfile

    path = _path(target, image)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    # The temporary file is outside of the list, because each file in the list's directory is an image.
    fd, temporary = tempfile.mkstemp(prefix=".manifest", dir=_config.directory())
    try:
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(fd, 0o644)
            file.write(manifest.encode())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remove(target: Reference) -> None:
    """Remove a list. Raises OSError."""
    import shutil

    shutil.rmtree(_path(target))
