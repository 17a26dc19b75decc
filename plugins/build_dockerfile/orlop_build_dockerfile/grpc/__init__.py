"""gRPC over HTTP/2 on trio, server and client: h2 for the frames, messages as bytes. Knows nothing of builds."""
