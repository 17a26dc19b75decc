"""Sessions: a client's connection on which the builder is the gRPC client, and asks for files, secrets and credentials.

`registry` has the open sessions, `client` the methods of each. `transfer` is the protocol of directories in both directions;
`listing` checks the names that a client sends, `tree` writes the files, and `receiver` connects the two.
"""

from orlop_build_dockerfile.session.client import ClientSession
from orlop_build_dockerfile.session.registry import Sessions

__all__ = ["ClientSession", "Sessions"]
