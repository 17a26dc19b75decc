"""The builder: Dockerfiles by BuildKit's protocol and by the classic endpoint, on a solver of LLB graphs.

Two processes. In orlopd, `plugin` starts the builder process on demand, hands it the connections of clients, and answers its
requests (`daemon/`). The builder process (`python -m orlop_build_dockerfile`) does everything else, in a mount namespace of
its own: when it is killed, its builds end, and none of their mounts remains.

   pb/          messages of the protocol            grpc/      HTTP/2 and gRPC on trio, both roles
   control/     what clients call (/grpc)           session/   what the builder calls at the client (/session)
   dockerfile/  from a Dockerfile to LLB            solver/    the graph: order, sharing, cache, progress
   ops/         sources, exec, files                export/    from a result to an image, an archive or files
   attest/      provenance, bills of materials      remote/    caches in registries, directories and images
   gateway/     what frontends call                 classic/   POST /build
   history/     records of builds                   daemon/    the part that runs in orlopd
   contracts.py the Protocols between these packages, with artifacts.py

State: `<data-root>/build/` holds the cache's database, the contexts last sent by clients, and cache mounts; snapshots are in
the storage driver, under keys that begin with `build-`.
"""
