"""Output files of a command. They are created before the request to the daemon. At the end, such a file is complete, or does
not exist."""

from __future__ import annotations

import os
from contextlib import contextmanager

from orlop_cli._errors import CliError
from orlop_cli.attached.streams import write_all

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Write = Callable[[bytes], None]


@contextmanager
def new_file(path: str, mode: int = 0o666, code: int = 1, exists: str = "") -> Iterator[Write]:
    """Yields a function that writes to a new file; `exists` is the error message if the file exists already. On failure the
    file is removed."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise CliError(exists or f"cannot write {path}: the file already exists", code) from None
    except OSError as error:
        raise _cannot(path, error, code) from None
    try:
        yield lambda data: _write(fd, data, path, code)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


@contextmanager
def whole_file(path: str) -> Iterator[Write]:
    """Yields a function that writes to a temporary file, which replaces `path` at the end. If `path` is a link, its target
    is replaced."""
    import tempfile

    target = os.path.realpath(path)
    try:
        fd, temporary = tempfile.mkstemp(prefix=".orlop-", dir=os.path.dirname(target))
    except OSError as error:
        raise _cannot(path, error) from None
    try:
        try:
            yield lambda data: _write(fd, data, path)
        finally:
            os.close(fd)
        try:
            os.replace(temporary, target)
        except OSError as error:
            raise _cannot(path, error) from None
    except BaseException:
        os.unlink(temporary)
        raise


def _write(fd: int, data: bytes, path: str, code: int = 1) -> None:
    try:
        write_all(fd, data)
    except OSError as error:
        raise _cannot(path, error, code) from None


def _cannot(path: str, error: OSError, code: int = 1) -> CliError:
    return CliError(f"cannot write {path}: {(error.strerror or str(error)).lower()}", code)
