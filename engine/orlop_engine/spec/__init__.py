"""The OCI runtime spec of a container: pure functions from the request, the resolved inputs and the host's facts to one
JSON document. They touch neither files nor the kernel (except `host`, which reads facts once).
"""
