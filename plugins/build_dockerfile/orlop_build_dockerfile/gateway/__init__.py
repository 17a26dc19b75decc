"""LLBBridge: the calls of frontends. A frontend is in the client, or is an image in `# syntax=`.

A frontend in the client calls on /grpc, and each call has a header with the name of the build. A frontend that is an image
runs in a container, like a step, and its standard input and output are the connection.

   bridge.py      the service               state.py      the state of one frontend
   image.py       frontends as images       worker.py     capabilities
   containers.py  containers of frontends   processes.py  their processes (`ExecProcess`)
"""
