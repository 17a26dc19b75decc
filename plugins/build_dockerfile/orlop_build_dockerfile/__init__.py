"""The builder. It builds Dockerfiles through BuildKit's protocol and through the classic endpoint `POST /build`, with a
solver of LLB graphs.

The builder runs in two processes. In orlopd, `plugin` starts the builder process on demand, passes the connections of
clients to it, and answers its requests (`daemon/`). All other work is done in the builder process (`python -m
orlop_build_dockerfile`), which has its own mount namespace. If this process is killed, its builds end, and no mounts remain.

   pb/           messages of the protocol
   grpc/         HTTP/2 and gRPC on trio, for servers and clients
   control/      the services that clients call (/grpc)
   session/      the calls of the builder to the client (/session)
   dockerfile/   converts a Dockerfile to LLB
   solver/       executes graphs: order, sharing, cache, progress
   ops/          the operations of a graph: sources, commands, files
   export/       makes an image, an archive or files from a result
   attest/       provenance, bills of materials
   remote/       caches in registries, directories and images
   gateway/      the service that frontends call
   classic/      POST /build
   history/      records of builds
   daemon/       the part that runs in orlopd
   contracts.py, artifacts.py, processes.py   the Protocols between these packages; failures.py: errors

State: `<data-root>/build/` contains the cache's database, the last contexts of clients, and cache mounts. Snapshots are in
the storage driver; their keys begin with `build-`.
"""
