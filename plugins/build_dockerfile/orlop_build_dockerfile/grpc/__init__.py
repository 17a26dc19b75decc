"""gRPC over HTTP/2 on trio, for servers and clients. h2 handles the headers, and messages are bytes. This package does not
depend on the builder.

A `Connection` runs on a connected stream, as server or as client. Flow control bounds the messages that have arrived but
were not received by a call yet, because data is acknowledged only when a call receives it. Compression is neither offered
nor accepted.
"""

from orlop_build_dockerfile.grpc._call import Call
from orlop_build_dockerfile.grpc._connection import ByteStream, Connection, Handler
from orlop_build_dockerfile.grpc._http2 import Limits
from orlop_build_dockerfile.grpc._status import Code, Headers, RpcError

__all__ = ["ByteStream", "Call", "Code", "Connection", "Handler", "Headers", "Limits", "RpcError"]
