"""Additional file systems that a scanner reads: the context and stages of the build. The arguments
BUILDKIT_SBOM_SCAN_CONTEXT and BUILDKIT_SBOM_SCAN_STAGE select them (buildkit docs/attestations/sbom.md). These arguments do
not become variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .interface import Scans
from .llb import Output, outputs_graph
from .stages import StageState

__all__ = ["SCAN_ARGUMENTS", "scans"]

_CONTEXT, _STAGE = SCAN_ARGUMENTS = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def scans(target: StageState, needed: Iterable[StageState], arguments: Mapping[str, str], context: Output | None) -> Scans:
    """`needed` are the stages that the target needs, `arguments` the global arguments. The argument of the target selects
    the context. The target itself is not an additional file system."""
    selected = [state for state in needed if state is not target and _selects(state, _STAGE, arguments)]
    found = {"context": context} if _selects(target, _CONTEXT, arguments) else {}
    found.update((state.name, state.output) for state in selected)
    fresh = target.ignore_cache or any(state.ignore_cache for state in selected)
    made = {name: output for name, output in sorted(found.items()) if output is not None}
    graph, outputs = outputs_graph(made.values())
    return Scans({**dict.fromkeys(found), **dict(zip(made, outputs, strict=True))}, graph, fresh)


def _selects(state: StageState, name: str, arguments: Mapping[str, str]) -> bool:
    """Whether an argument is true for a stage, or contains the name of the stage. A stage does not inherit the arguments of
    its base."""
    if state.anonymous or state.context_key is not None:
        return False
    own = state.args.get(name)
    value = arguments.get(name, "") if own is None else own
    return _BOOLEANS.get(value, state.name in value.split(","))
