"""From the flags of `run` and `create` to the body of `POST /containers/create`. Pure but for files that flags name."""
