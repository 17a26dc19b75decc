"""overlay2: one directory a layer, stacked by overlayfs. Docker's on-disk layout (daemon/graphdriver/overlay2).

Owns everything below its root:

    l/<26 characters>  ->  ../<id>/diff      short names, so that mount options stay short
    <id>/{diff,work,link,lower,committed}    a layer; `lower` and `link` are for tools and can be made anew from `.orlop`
    .orlop/{active,committed}/<key>          which key is which layer, on top of which (spi.snapshots)
    .orlop/staging/<id>                      being made; deleted at the next start
    .orlop/trash/<id>                        removed; deleted beside the work

A snapshot counts once its key is in `.orlop`. A crash at any point leaves nothing that the next start does not complete or
throw away. Layers not named there (of a dockerd that used the same directory) are never touched.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Overlay2
from .options import check_options

__all__ = ["Overlay2", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("overlay2", Overlay2, check_options=check_options)
