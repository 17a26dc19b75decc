"""Builds on restricted listeners. A restricted client must not be able to use a build for an operation that its other
requests may not do.

The builder asks the daemon for base images, steps and new images. The engine checks these requests (`engine.building.scope`)
with the functions that check other requests. Each listener has its own build cache, because a shared cache reveals the
builds of other listeners, and returns their results to a client that makes the same build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import msgspec

from orlop_engine.restrictions import BuildRestrictions, Restrictions
from orlop_engine.types.containers import CreateRequest, HostConfig

from . import host_access
from .image_names import ListenerImages
from .label_scope import LabelScope
from .listener_policy import Denied, ListenerPolicy

__all__ = ["ROUTES", "domain", "restrictions"]

ROUTES = frozenset({"/build", "/build/cancel", "/build/prune", "/grpc", "/session"})


def domain(policy: ListenerPolicy) -> str:
    """The name of the listener's build cache. The name changes when the listener gets other labels, because its clients may
    then be different."""
    key = [policy.host, sorted(policy.label_texts), policy.shared_images]
    return hashlib.sha256(msgspec.json.encode(key)).hexdigest()[:16]


def restrictions(policy: ListenerPolicy, scope: LabelScope | None, note: Callable[[Denied], None]) -> Restrictions:
    """The restrictions of a client that builds. `note` writes a refusal to the audit log. This is necessary because the call
    that began the build has already been answered. The client gets the refusal in the output of the build."""

    def refuse(what: str) -> Denied:
        error = policy.denied(what)
        note(error)
        return error

    def check_pull() -> None:
        if scope:
            with _noted(note):
                scope.check_pull()

    def check_step(host: HostConfig) -> None:
        for what in host_access.of_container(CreateRequest(host_config=host), apart=not policy.may_exec):
            raise refuse(f"{what} in a step of a build")

    def label(labels: Mapping[str, str]) -> Mapping[str, str]:
        if scope is None:
            return labels
        with _noted(note):
            return scope.label_image(labels)

    matches = scope.matches if scope else None
    return Restrictions(
        hide_host=True,
        images=ListenerImages(policy, matches, refuse, pulling=False),
        refuse=refuse,
        builds=BuildRestrictions(
            domain=domain(policy),
            pulls=ListenerImages(policy, matches, refuse, pulling=True),
            check_pull=check_pull,
            check_step=check_step,
            label=label,
        ),
    )


@contextmanager
def _noted(note: Callable[[Denied], None]) -> Iterator[None]:
    try:
        yield
    except Denied as error:
        note(error)
        raise
