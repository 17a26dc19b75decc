"""The services that clients call on /grpc: Control and LLBBridge of BuildKit's protocol.

A client begins a build with three calls at the same time: Control/Solve and Control/Status on /grpc, and the session. The
builder connects them by the build's name and the session's id. A frontend in the client then calls LLBBridge, and
Control/Solve continues with the frontend's result.

   service.py    Control, and LLBBridge of frontends in the client (`gateway/`)
   builds.py     builds in progress
   progress.py, logs.py   the reports of builds
   errors.py     errors and statuses
   tunnel.py     sessions inside calls
   builder.py    implements `contracts.Builder`
"""
