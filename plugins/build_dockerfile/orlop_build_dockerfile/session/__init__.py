"""Sessions. A session is a client's connection on which the builder is the gRPC client, and asks for files, secrets and
credentials.

`registry` contains the open sessions, and `client` the methods of a session. `transfer` transfers directories in both
directions. `listing` checks the names that a client sends, `tree` writes the files, and `receiver` uses these two modules.
"""

from orlop_build_dockerfile.session.client import ClientSession
from orlop_build_dockerfile.session.registry import Sessions

__all__ = ["ClientSession", "Sessions"]
