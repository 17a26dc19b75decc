"""The steps of a build as spans, in BuildKit's form of traces: each line is a JSON object of OpenTelemetry's Go library
(`tracetest.SpanStub`). The first span is the build, and the spans of the steps are its children."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from orlop_build_dockerfile.pb import control_pb2 as pb

__all__ = ["spans"]

_NONE = {"TraceID": "0" * 32, "SpanID": "0" * 16, "TraceFlags": "00", "TraceState": "", "Remote": False}
_INTERNAL = 1
_RESOURCE = [{"Key": "service.name", "Value": {"Type": "STRING", "Value": "orlop"}}]
_LIBRARY = {"Name": "orlop_build_dockerfile", "Version": "", "SchemaURL": ""}


def spans(record: pb.BuildHistoryRecord, vertices: Iterable[pb.Vertex]) -> bytes:
    """The trace of a build that has ended; empty if the build has no steps."""
    steps = [each for each in vertices if each.HasField("started") and each.HasField("completed")]
    if not steps:
        return b""
    trace = hashlib.sha256(f"{record.Ref} {record.CreatedAt.ToNanoseconds()}".encode()).hexdigest()[:32]
    root = _context(trace, "root")
    lines = [_span("build", root, _NONE, record.CreatedAt, record.CompletedAt, record.error.message, [], len(steps))]
    for vertex in steps:
        attributes = [_attribute("vertex", "STRING", vertex.digest), _attribute("cached", "BOOL", vertex.cached)]
        own = _context(trace, vertex.digest)
        lines.append(_span(vertex.name, own, root, vertex.started, vertex.completed, vertex.error, attributes, 0))
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def _context(trace: str, name: str) -> dict[str, Any]:
    span = hashlib.sha256(f"{trace} {name}".encode()).hexdigest()[:16]
    return {**_NONE, "TraceID": trace, "SpanID": span, "TraceFlags": "01"}


def _attribute(key: str, kind: str, value: object) -> dict[str, Any]:
    return {"Key": key, "Value": {"Type": kind, "Value": value}}


def _span(
    name: str,
    own: dict[str, Any],
    parent: dict[str, Any],
    start: Timestamp,
    end: Timestamp,
    error: str,
    attributes: list[dict[str, Any]],
    children: int,
) -> dict[str, Any]:
    return {
        "Name": name,
        "SpanContext": own,
        "Parent": parent,
        "SpanKind": _INTERNAL,
        "StartTime": start.ToJsonString(),
        "EndTime": end.ToJsonString(),
        "Attributes": attributes,
        "Events": None,
        "Links": None,
        "Status": {"Code": "Error" if error else "Unset", "Description": error},
        "DroppedAttributes": 0,
        "DroppedEvents": 0,
        "DroppedLinks": 0,
        "ChildSpanCount": children,
        "Resource": _RESOURCE,
        "InstrumentationLibrary": _LIBRARY,
    }
