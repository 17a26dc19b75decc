"""Restart policies. They determine whether a container is restarted, and after which delay. The delays are the same as in
Docker. The first delay is 100 ms, and each restart doubles it, up to a minute. After a run of at least ten seconds, the next
delay is 100 ms again.
"""

from __future__ import annotations

from orlop_engine.types.containers import RestartPolicy
from orlop_sdk import InvalidParameter

__all__ = ["check", "next_delay", "wants_restart", "wants_start_at_boot"]

_FIRST, _LAST, _GOOD_RUN = 0.1, 60.0, 10.0


def check(policy: RestartPolicy, auto_remove: bool) -> None:
    name, count = policy.name, policy.maximum_retry_count
    if name not in ("", "no", "always", "on-failure", "unless-stopped"):
        raise InvalidParameter(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if count and name != "on-failure":
        raise InvalidParameter("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if count < 0:
        raise InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if auto_remove and name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")


def next_delay(previous: float, ran_for: float) -> float:
    """Seconds to wait before the next restart. `previous` is the last delay, 0 for none."""
    if not previous or ran_for >= _GOOD_RUN:
        return _FIRST
    return min(previous * 2, _LAST)


def wants_restart(policy: RestartPolicy, code: int, tries: int, stopped_by_user: bool) -> bool:
    """Whether to restart after an exit. No policy restarts a container that a user has stopped."""
    if stopped_by_user:
        return False
    if policy.name == "on-failure":
        return _failed(policy, code, tries)
    return policy.name in ("always", "unless-stopped")


def wants_start_at_boot(policy: RestartPolicy, started_before: bool, manually_stopped: bool, code: int, tries: int) -> bool:
    """Whether to start the container when the daemon starts. "always" applies even after `docker stop`."""
    if not started_before:
        return False
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not manually_stopped
    return policy.name == "on-failure" and not manually_stopped and _failed(policy, code, tries)


def _failed(policy: RestartPolicy, code: int, tries: int) -> bool:
    return code != 0 and (not policy.maximum_retry_count or tries < policy.maximum_retry_count)
