"""The demo's images, made from Debian's packages: busybox, and Debian with nginx. The images are cached next to the virtual
environment."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import subprocess
import sys
import zlib

from tests.registry import Blob, Image, busybox, image, layer
from tests.registry.build import DOCKER_LAYER, PATH

__all__ = ["busybox_image", "nginx_image"]

_CACHE = os.path.join(sys.prefix, "demo")
_MMDEBSTRAP = (
    "mmdebstrap",
    "--quiet",
    "--variant=minbase",
    "--include=nginx-light",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
)
_PAGE = b"<h1>A page from a container, served by Orlop</h1>\n"
_CONFIG = b"""daemon off; pid /run/nginx.pid; error_log /dev/stderr; events {}
http { access_log /dev/stdout; server { listen 80; root /var/www/html; } }
"""


def busybox_image() -> Image:
    return image([layer(busybox())], config={"Env": [PATH], "Cmd": ["sh"]})


def _sources(codename: str) -> str:
    """The package sources that this machine uses for its release, so that the demo contacts no other servers."""
    kept = []
    for path in sorted(glob.glob("/etc/apt/sources.list") + glob.glob("/etc/apt/sources.list.d/*")):
        with open(path) as file:
            text = file.read()
        pieces = text.split("\n\n") if path.endswith(".sources") else text.splitlines()
        kept += [piece.strip() for piece in pieces if codename in piece and not piece.lstrip().startswith("#")]
    return "\n\n".join(kept) + "\n"


def _debian() -> bytes:
    """Debian with nginx, as a gzipped tar."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    sources = _sources(codename)
    cached = os.path.join(_CACHE, f"{codename}-nginx-{hashlib.sha256(sources.encode()).hexdigest()[:12]}.tar.gz")
    if not os.path.exists(cached):
        os.makedirs(_CACHE, exist_ok=True)
        made = subprocess.run([*_MMDEBSTRAP, codename, "-", "-"], input=sources.encode(), check=True, stdout=subprocess.PIPE)
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        with open(cached + ".new", "wb") as file:
            file.write(packer.compress(made.stdout) + packer.flush())
        os.rename(cached + ".new", cached)
    with open(cached, "rb") as file:
        return file.read()


def nginx_image() -> Image:
    packed = _debian()
    unpacker, digest = zlib.decompressobj(31), hashlib.sha256()
    view = memoryview(packed)
    for start in range(0, len(view), 1 << 20):
        digest.update(unpacker.decompress(view[start : start + (1 << 20)]))
    base = Blob(packed, DOCKER_LAYER, f"sha256:{digest.hexdigest()}")
    top = layer({"etc/nginx/demo.conf": _CONFIG, "var/www/html/index.html": _PAGE})
    config = {
        "Env": [PATH],
        "Entrypoint": ["/usr/sbin/nginx"],
        "Cmd": ["-c", "/etc/nginx/demo.conf"],
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    }
    return image([base, top], config=config)
