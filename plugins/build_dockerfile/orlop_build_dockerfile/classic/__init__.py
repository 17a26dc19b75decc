"""`POST /build`: the context as a tar in the request's body, progress as lines of JSON in the answer.

`request` reads the parameters. `session` replaces the session of a BuildKit client, which a build asks for files and
credentials. `steps` and `output` show the graph's progress as steps of the Dockerfile. `build` runs the build.
"""

from orlop_build_dockerfile.classic.build import ClassicEndpoint

__all__ = ["ClassicEndpoint"]
