"""Turns the flags of `run` and `create` into the body of `POST /containers/create`. Only files in flags are read."""
