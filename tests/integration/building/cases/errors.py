"""Builds that are refused: each message is compared."""

from __future__ import annotations

from .case import TREE, Case

__all__ = ["CASES"]


def _fails(text: str, *options: str, lines: bool = True) -> Case:
    return Case(text, TREE, *options, fails=True, lines=lines)


CASES: dict[str, Case] = {
    "error-empty": _fails(""),
    "error-comments-alone": _fails("# nothing\n\n"),
    "error-no-from": _fails("RUN true\n"),
    "error-instruction": _fails("FROM busybox\nRUNN true\n"),
    "error-from-arguments": _fails("FROM busybox a b\n"),
    "error-from-name": _fails("FROM busybox AS -x\n"),
    "error-from-reference": _fails("FROM Busybox\n"),
    "error-from-empty": _fails("ARG image\nFROM $image\n"),
    "error-from-flag": _fails("FROM --nothing=1 busybox\n"),
    "error-from-platform": _fails("FROM --platform=no/such/thing/x busybox\n"),
    "error-target": _fails("FROM busybox AS a\n", "--target", "b"),
    "error-circle": _fails(
        "FROM busybox AS a\nCOPY --from=b /x /\nFROM busybox AS b\nCOPY --from=a /x /\nFROM b\n", lines=False
    ),
    "error-copy-arguments": _fails("FROM busybox\nCOPY one\n"),
    "error-copy-flag": _fails("FROM busybox\nCOPY --nothing top.md /\n"),
    "error-copy-flag-twice": _fails("FROM busybox\nCOPY --chown=1 --chown=2 top.md /\n"),
    "error-copy-from-number": _fails("FROM busybox\nCOPY --from=7 /x /\n", lines=False),
    "error-add-from": _fails("FROM busybox\nADD --from=busybox /bin /\n"),
    "error-env": _fails("FROM busybox\nENV =x\n"),
    "error-env-quote": _fails("FROM busybox\nENV a='b\n"),
    "error-label": _fails("FROM busybox\nLABEL a\n"),
    "error-arg-name": _fails("FROM busybox\nARG =x\n"),
    "error-expose": _fails("FROM busybox\nEXPOSE port\n"),
    "error-expose-range": _fails("FROM busybox\nEXPOSE 10-5\n"),
    "error-expose-nothing": _fails("FROM busybox\nEXPOSE\n"),
    "error-volume": _fails('FROM busybox\nVOLUME [""]\n'),
    "error-user": _fails("FROM busybox\nUSER\n"),
    "error-workdir": _fails("FROM busybox\nWORKDIR\n"),
    "error-shell": _fails("FROM busybox\nSHELL /bin/sh\n"),
    "error-shell-empty": _fails("FROM busybox\nSHELL []\n"),
    "error-stopsignal": _fails("FROM busybox\nSTOPSIGNAL SIGNOTHING\n"),
    "error-stopsignal-two": _fails("FROM busybox\nSTOPSIGNAL 1 2\n"),
    "error-healthcheck": _fails("FROM busybox\nHEALTHCHECK WHAT true\n"),
    "error-healthcheck-none": _fails("FROM busybox\nHEALTHCHECK NONE x\n"),
    "error-healthcheck-duration": _fails("FROM busybox\nHEALTHCHECK --interval=x CMD true\n"),
    "error-healthcheck-retries": _fails("FROM busybox\nHEALTHCHECK --retries=-1 CMD true\n"),
    "error-healthcheck-no-command": _fails("FROM busybox\nHEALTHCHECK CMD\n"),
    "error-onbuild-onbuild": _fails("FROM busybox\nONBUILD ONBUILD RUN true\n"),
    "error-onbuild-from": _fails("FROM busybox\nONBUILD FROM x\n"),
    "error-onbuild-nothing": _fails("FROM busybox\nONBUILD\n"),
    "error-onbuild-runs": _fails("FROM busybox AS b\nONBUILD RUN exit 5\nFROM b\n", lines=False),
    "error-heredoc": _fails("FROM busybox\nRUN <<EOF\ntrue\n"),
    "error-mount-type": _fails("FROM busybox\nRUN --mount=type=what,target=/x true\n"),
    "error-mount-target": _fails("FROM busybox\nRUN --mount=type=cache true\n"),
    "error-mount-key": _fails("FROM busybox\nRUN --mount=type=cache,target=/x,what=1 true\n"),
    "error-mount-key-of-other-type": _fails("FROM busybox\nRUN --mount=type=bind,target=/x,sharing=shared true\n"),
    "error-mount-sharing": _fails("FROM busybox\nRUN --mount=type=cache,target=/x,sharing=some true\n"),
    "error-mount-mode": _fails("FROM busybox\nRUN --mount=type=cache,target=/x,mode=rwx true\n"),
    "error-network": _fails("FROM busybox\nRUN --network=what true\n"),
    "error-run-flag": _fails("FROM busybox\nRUN --nothing true\n"),
    "error-escape": _fails("# escape=x\nFROM busybox\n", lines=False),
    "error-directive-twice": _fails("# escape=\\\n# escape=`\nFROM busybox\n", lines=False),
    "error-maintainer": _fails("FROM busybox\nMAINTAINER\n"),
    "error-line-of-many": _fails("FROM busybox\nRUN true\n\nRUN a \\\n  b \\\n  c\nRUN true\n"),
    "error-in-unused-stage": _fails("FROM busybox AS a\nNOTHING\nFROM busybox\nRUN true\n"),
    "error-two-stages-fail": _fails("FROM busybox AS a\nRUN exit 3\nFROM busybox\nCOPY --from=a /x /\n"),
}
