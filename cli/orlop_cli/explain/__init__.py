"""The explanations of `orlop explain`: the state of an object in sentences, and the next commands to run.

`container` and `objects` turn answers of the API into an `Explanation`, without I/O. `gather` requests the answers. `ports`
reads the processes of this machine.
"""
