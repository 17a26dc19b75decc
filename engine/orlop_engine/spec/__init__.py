"""The OCI runtime spec of a container: pure functions from what was asked, what was resolved and what this host is, to
one JSON document. Touches neither files nor kernel (except `host`, which reads facts once)."""
