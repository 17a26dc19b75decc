"""The `orlop` client: a command line for any daemon that serves the Docker Engine API.

It knows the HTTP API and nothing of the kernel. Modules of `orlop_cli.commands` are imported when their command is
called and not before: a command that prints one table must not pay for a hundred others.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
