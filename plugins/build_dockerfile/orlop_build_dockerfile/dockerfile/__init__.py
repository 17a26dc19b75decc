"""From a Dockerfile to LLB: pure functions, without files or network."""
