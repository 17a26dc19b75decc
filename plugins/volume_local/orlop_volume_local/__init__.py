"""The volume driver `local`: volumes are directories below the data root, or mounts described by `-o type=,device=,o=`.

The driver owns these files, as Docker's does (moby volume/local):

    <root>/<name>/_data          the content, mode 0755, owner root
    <root>/<name>/opts.json      the options, if there are any
    <root>/.trash/               removed volumes; deleted in the background

A volume exists when its `_data` exists, which is made last. A tmpfs volume is mounted on the host at its `_data` on first
use, so that containers share it, and unmounted when it is removed. Other mounts are made by each container's monitor.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import LocalVolumes

__all__ = ["LocalVolumes", "orlop_volume"]


@hookimpl
def orlop_volume(register: Register) -> None:
    register("local", LocalVolumes)
