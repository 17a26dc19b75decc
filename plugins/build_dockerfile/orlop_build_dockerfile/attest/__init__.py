"""Attestations: statements of a build about its images, stored together with the images.

parse.py        the attestations that the client requests
statements.py   in-toto statements, package URLs
provenance.py   the sources and steps of a result
sbom.py         a bill of materials, which a scanner's image makes
layers.py       the layers of steps in an image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .parse import Wanted
from .statements import Predicate

if TYPE_CHECKING:
    from orlop_build_dockerfile.export.compose import Target
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["predicates"]


async def predicates(job: SolverJob, targets: Sequence[Target], wanted: Wanted) -> Mapping[str, Sequence[Predicate]]:
    """The predicates about each result, by its key."""
    found: dict[str, list[Predicate]] = {target.key: [] for target in targets}
    if wanted.sbom is not None:
        from .sbom import scan

        for target in targets:
            found[target.key] += await scan(job, target, wanted.sbom)
    if wanted.provenance is not None:
        from .provenance import provenance

        for target in targets:
            found[target.key].append(await provenance(job, target, wanted.provenance))
    return found
