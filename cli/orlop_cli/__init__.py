"""The `orlop` client: a command line for any daemon that serves the Docker Engine API.

The client uses only the HTTP API, and imports no other package of Orlop. Modules of `orlop_cli.commands` are imported when
their command is called, so that a command does not import the modules of all others.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
