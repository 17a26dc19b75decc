"""Dockerfiles that are built by dockerd and by orlopd, by topic. All are built by BuildKit's protocol, and those in CLASSIC
by `POST /build`, too."""

from __future__ import annotations

from . import contexts, copying, errors, instructions, running, variables
from .case import Case, context

__all__ = ["CASES", "CLASSIC", "Case", "context"]

CASES: dict[str, Case] = {}
for topic in (instructions, variables, running, copying, contexts, errors):
    assert not CASES.keys() & topic.CASES.keys()
    CASES |= topic.CASES

CLASSIC = """
add-archive-named add-archive-over add-archives add-file add-not-tar add-tar add-url
arg-empty-option arg-in-copy arg-in-from arg-of-stages arg-option arg-quotes
cmd-after-entrypoint cmd-empty cmd-not-json comments copy-absolute copy-all copy-chown copy-chown-variable
copy-dir copy-dir-over copy-dot copy-empty-file copy-file copy-from-image copy-from-stage copy-hard copy-json copy-many
copy-over-link copy-several copy-thousands copy-to-root copy-wildcard entrypoint-resets-cmd
env-over-arg env-path env-several expand-default expand-quotes expose extra-hosts from-scratch-stage healthcheck
healthcheck-none ignore-exception ignore-everywhere label label-again links metadata network-option-none onbuild-runs
run run-background run-deletes-base run-exit-code run-hard-links run-no-such-command run-shell run-sparse run-user
shell-forms shm stages-many stopsignal target ulimit user-forms workdir workdir-relative
""".split()
assert CASES.keys() >= set(CLASSIC)
