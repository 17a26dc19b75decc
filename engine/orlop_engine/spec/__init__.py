"""The OCI runtime spec of a container. The functions make one JSON document from the request, the resolved inputs and the
facts about the host. They do no I/O, except in the module `host`, which reads the facts once.
"""
