"""Runs several conversions concurrently, so that their needs are answered together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

from .interface import Answer, Need

__all__ = ["Steps", "together"]

T = TypeVar("T")
Steps = Generator[Sequence[Need], Sequence[Answer], T]


def together(tasks: Sequence[Steps[T]]) -> Steps[list[T]]:
    """The results, in the order of the tasks."""
    results: dict[int, T] = {}
    answers: dict[int, Sequence[Answer]] = {}
    running = dict(enumerate(tasks))
    started = False
    while running:
        spans: list[tuple[int, int]] = []
        needs: list[Need] = []
        for number, task in list(running.items()):
            try:
                wanted = task.send(answers[number]) if started else next(task)
            except StopIteration as stop:
                results[number] = stop.value
                del running[number]
                continue
            spans.append((number, len(wanted)))
            needs += wanted
        started = True
        if running:
            given = yield tuple(needs)
            at = 0
            for number, count in spans:
                answers[number] = given[at : at + count]
                at += count
    return [results[number] for number in range(len(tasks))]
