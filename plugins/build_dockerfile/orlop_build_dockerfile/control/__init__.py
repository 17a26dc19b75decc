"""What clients call: the services Control and LLBBridge of BuildKit's protocol, on /grpc.

A client begins a build with three calls at the same moment, which find each other by the build's name and the session's id:
Control/Solve and Control/Status on /grpc, and the session. If the frontend is in the client, it then asks by LLBBridge, and
Control/Solve goes on with what it returns.

   service.py  Control, and LLBBridge of frontends in the client (`gateway/`)     builds.py  builds in progress
   progress.py, logs.py: what builds report                  errors.py  errors and statuses
   tunnel.py   sessions inside calls                         builder.py `contracts.Builder`
"""
