"""`./dev demo`: the main use of a container engine, from an empty machine to a served page, with cleanup."""
