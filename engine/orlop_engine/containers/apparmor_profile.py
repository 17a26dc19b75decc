"""Load the default AppArmor profile for containers into the kernel when the first container needs it. The profile stays
loaded when the daemon ends, because containers may still use it.
"""

from __future__ import annotations

import logging
import os
import shutil

from orlop_engine import commands
from orlop_engine.spec import apparmor, security
from orlop_engine.spec.host import facts
from orlop_engine.types.containers import HostConfig
from orlop_sdk import Command, InvalidParameter

__all__ = ["ensure_profile", "has_default", "profile"]

log = logging.getLogger("orlop.containers")

_PROFILES = "/sys/kernel/security/apparmor/profiles"
_DIRECTORY = "/etc/apparmor.d"
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def _parser() -> str | None:
    return shutil.which("apparmor_parser", path=_PATH)


def has_default() -> bool:
    """Whether containers are confined by default. As in Docker, this is false on a host without `apparmor_parser`."""
    return facts().apparmor and _parser() is not None


def profile(host: HostConfig) -> str:
    """The name of a container's AppArmor profile, as used in its OCI spec and shown by inspect; "" for none."""
    if not facts().apparmor:
        return ""
    chosen = apparmor.chosen(security.parse(host.security_opt or ()).apparmor, host.privileged)
    return chosen if chosen != apparmor.DEFAULT or has_default() else ""


def _loaded() -> str | None:
    """The profiles that the kernel has loaded; None if securityfs is not mounted."""
    try:
        with open(_PROFILES) as file:
            return file.read()
    except OSError:
        return None


async def ensure_profile(host: HostConfig) -> None:
    """Make sure that the container's profile is loaded. Raises `InvalidParameter` if a profile that the client named is
    not loaded."""
    wanted = profile(host)
    if wanted in ("", apparmor.UNCONFINED):
        return
    loaded = _loaded()
    if loaded is not None and apparmor.is_loaded(loaded, wanted):
        return
    if wanted != apparmor.DEFAULT:
        if loaded is None:
            return  # if the profile is missing, the runtime reports this
        raise InvalidParameter(
            f'cannot use AppArmor profile "{wanted}": it is not loaded (apparmor_parser -r FILE loads it)'
        )
    text = apparmor.text(lambda name: os.path.exists(f"{_DIRECTORY}/{name}"), _own())
    command = Command((_parser() or "", "-Kr"), env=(("PATH", _PATH),), stdin=text.encode(), timeout=30)
    await commands.check(command, f"load the AppArmor profile {apparmor.DEFAULT}")
    log.info("loaded the AppArmor profile %s", apparmor.DEFAULT)


def _own() -> str:
    """The AppArmor profile that this daemon runs under; "" if it cannot be read."""
    try:
        with open("/proc/self/attr/current") as file:
            return file.read().strip("\0\n").partition(" (")[0]
    except OSError:
        return ""
