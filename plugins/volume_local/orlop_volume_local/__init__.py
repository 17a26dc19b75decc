"""The volume driver `local`. Volumes are directories below the data root, or mounts described by `-o type=,device=,o=`.

The driver has these files, the same as in Docker (moby volume/local):

    <root>/<name>/_data          the content, mode 0755, owner root
    <root>/<name>/opts.json      the options, if there are any
    <root>/.trash/               removed volumes; deleted in the background

A volume exists if its `_data` exists, which is made last. A tmpfs volume is mounted on the host at its `_data` at its first
use, so that containers share it. It is unmounted when it is removed. All other mounts are made by each container's monitor.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import LocalVolumes

__all__ = ["LocalVolumes", "orlop_volume"]


@hookimpl
def orlop_volume(register: Register) -> None:
    register("local", LocalVolumes)
