"""Turns the flags of `run` and `create` into the body of `POST /containers/create`. Reads only files that flags name."""
