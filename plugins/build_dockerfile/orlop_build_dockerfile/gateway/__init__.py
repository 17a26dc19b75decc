"""LLBBridge: the calls of frontends, which are in the client or are images that `# syntax=` names.

A frontend in the client calls on /grpc, and names its build in a header of each call. A frontend that is an image runs as a
container, as a step does, and its standard input and output are the connection.

   bridge.py   the service            state.py    what one frontend has been given
   image.py    frontends as images    worker.py   capabilities
"""
