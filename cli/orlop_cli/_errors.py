"""What can go wrong, by who acts on it, and the exit codes Docker's scripts rely on."""

from __future__ import annotations


class CliError(Exception):
    """Ends the command: the message is printed as `orlop: MESSAGE`, the process exits with `code`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class UsageProblem(CliError):
    """Bad flag value or contradictory flags found after parsing; Docker exits 125 for `run`, 1 elsewhere."""


class CannotConnect(CliError):
    """No daemon answers at the address."""


class ApiError(CliError):
    """The daemon answered with an error status; `status` decides what a caller does about it."""

    def __init__(self, status: int, text: str, api_version: str = "") -> None:
        super().__init__(f"Error response from daemon: {text}")
        self.status = status
        self.text = text
        self.api_version = api_version


class Exit(Exception):  # an exit is a request, not an error
    """End with this exit code and print nothing: a container's own code, or errors printed already."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
