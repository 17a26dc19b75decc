"""The part of the builder that runs in orlopd, and the connection between orlopd and the builder process.

   in orlopd                                     in the builder process
   plugin, keys: hooks, keys of daemon.json
   service: starts and ends the process   <-->   process: the main function
                                                 unopened: answers if the builder cannot be opened
   requests: answers its requests         <-->   backend_client: implements `contracts.Backend`

`link` sends calls in both directions over a socketpair; `messages` defines the calls.
"""
