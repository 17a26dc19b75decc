"""local: volumes as directories of the data root, or as mounts that `-o type=,device=,o=` describe.

Owns, as Docker's driver does (daemon/volume/local):

    <root>/<name>/_data          the content: 0755 root
    <root>/<name>/opts.json      the options, when there are any
    <root>/.trash/               removed volumes; deleted beside the work

A volume exists when its `_data` does, which is made last. A tmpfs volume is mounted at its `_data` on first use, so that
containers share it, and unmounted when it is removed; what else options describe is mounted by each container's monitor.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import LocalVolumes

__all__ = ["LocalVolumes", "orlop_volume"]


@hookimpl
def orlop_volume(register: Register) -> None:
    register("local", LocalVolumes)
