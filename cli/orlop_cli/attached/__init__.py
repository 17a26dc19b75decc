"""Connects a terminal or pipes to a container or an exec."""
