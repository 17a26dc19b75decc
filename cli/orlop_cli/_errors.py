"""The types of errors, and the exit codes on which scripts written for Docker rely."""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from orlop_cli.daemon.client import Engine


class CliError(Exception):
    """Ends the command. The message is printed as `orlop: MESSAGE`, and the process exits with `code`. `source` is the
    daemon that refused a request, if it can be asked for a hint, such as a similar name."""

    source: Engine | None = None

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class UsageProblem(CliError):
    """Wrong or contradictory flags found after parsing; Docker exits with 125 for `run`, 1 elsewhere."""


class CannotConnect(CliError):
    """No daemon answers at the address."""


class ApiError(CliError):
    """The daemon answered with an error status; callers decide by `status`."""

    def __init__(self, status: int, text: str, api_version: str = "") -> None:
        super().__init__(f"Error response from daemon: {text}")
        self.status = status
        self.text = text
        self.api_version = api_version


class Exit(Exception):  # an exit is a request, not an error
    """Exit with this code and print nothing: a container's own code, or errors that were already printed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def with_hint(error: CliError) -> str:
    """The message of an error, followed by a hint: a similar name, the process that holds a port, or the next command."""
    if error.source is None:
        return error.message
    from orlop_cli._suggest import name_hint, next_command

    return error.message + (name_hint(error) or next_command(error))
