"""gRPC over HTTP/2 on trio, server and client: h2 for the headers, messages as bytes. Knows nothing of builds.

A `Connection` runs on a connected stream, in one of the roles. Messages that have arrived and are not yet received are
bounded by flow control, which is acknowledged as calls receive. Compression is neither offered nor accepted.
"""

from orlop_build_dockerfile.grpc._call import Call
from orlop_build_dockerfile.grpc._connection import ByteStream, Connection, Handler
from orlop_build_dockerfile.grpc._http2 import Limits
from orlop_build_dockerfile.grpc._status import Code, Headers, RpcError

__all__ = ["ByteStream", "Call", "Code", "Connection", "Handler", "Headers", "Limits", "RpcError"]
