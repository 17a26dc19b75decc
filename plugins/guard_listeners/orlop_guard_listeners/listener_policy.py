"""The permissions of a listener, and its error messages."""

from __future__ import annotations

from dataclasses import dataclass

from orlop_kernel.config import Listener
from orlop_sdk import Forbidden

from .roles import ROLE_LEVEL, Level

__all__ = ["DEFAULT", "Denied", "ListenerPolicy"]

DEFAULT = "default"
"""The name of the sockets of `hosts` in the audit log."""


class Denied(Forbidden):
    """A call was refused by a policy. `by` is the name of the policy in the audit log."""

    def __init__(self, message: str, by: str) -> None:
        super().__init__(message)
        self.by = by


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """A parsed entry of `listeners`. `labels`: name and value; None matches any value."""

    host: str
    role: str
    level: Level
    labels: tuple[tuple[str, str | None], ...]
    shared_images: bool
    show_env: bool
    image_names: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Listener) -> ListenerPolicy:
        pairs = (label.partition("=") for label in entry.labels)
        labels = tuple((key, value if equals else None) for key, equals, value in pairs)
        level, shared, show = ROLE_LEVEL[entry.role], entry.shared_images, entry.show_env
        return cls(entry.host, entry.role, level, labels, shared, show, entry.image_names)

    @property
    def guarded(self) -> bool:
        """Whether the listener's clients must not become root. If so, their containers may not use resources of the host."""
        return self.level < Level.FULL or bool(self.labels)

    @property
    def may_exec(self) -> bool:
        """Whether clients may run programs in containers that they can see. Sharing the processes of a container also needs
        this permission, because it has the same effect."""
        return self.level is Level.FULL

    @property
    def label_texts(self) -> tuple[str, ...]:
        """The labels as text, for filters and messages."""
        return tuple(key if value is None else f"{key}={value}" for key, value in self.labels)

    def denied(self, what: str) -> Denied:
        """ "WHAT is not allowed for role read-only of listener unix:///x"."""
        return Denied(f"{what} is not allowed for role {self.role} of listener {self.host}", f"role {self.role}")

    def outside(self, what: str) -> Denied:
        wanted = ", ".join(self.label_texts)
        return Denied(f"{what} is outside the labels ({wanted}) of listener {self.host}, role {self.role}", "labels")
