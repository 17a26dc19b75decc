"""The `orlop` client: a command line for any daemon that serves the Docker Engine API.

It uses only the HTTP API and imports nothing of the kernel. Modules of `orlop_cli.commands` are imported when their command
is called, so that no command pays for importing all others.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
