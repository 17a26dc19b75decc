"""Modules that the daemon must not import before its first answer. The import of each takes a millisecond or more;
together they took half of the start.
"""

from __future__ import annotations

import subprocess
import sys

__all__ = ["LATER"]

# Prints the modules that a start has imported when it begins to listen
_START = """
import sys
import orlop_kernel.__main__, orlop_kernel.daemon, orlop_kernel.store, orlop_kernel.kinds, orlop_kernel.http.server
from orlop_kernel.config import load
from orlop_sdk import discovery
import orlop_engine.plugin, orlop_engine.service
config = load(["--config-file", "/dev/null"], {})
assert not list(orlop_engine.plugin.EnginePlugin().problems(config))
for kind, names in (("service", config.services), ("frontend", config.front_ends), ("guard", config.guards)):
    for name in names:
        assert discovery.find(kind, name).version
for kind, name in (("storage", "overlay2"), ("volume", "local")):
    assert discovery.find(kind, name).version
print(*sys.modules)
"""

LATER = {
    "email",
    "html",
    "httpx",
    "importlib.metadata",
    "importlib.resources",
    "pyroute2",
    "tarfile",
    "zipfile",
    "orlop_engine.containers.create",
    "orlop_engine.containers.launch",
    "orlop_engine.containers.listing",
    "orlop_api_docker.wire.container_list",
    "orlop_api_docker.wire.containers",
    "orlop_engine.containers.details",
    "orlop_engine.files",
    "orlop_engine.images.imports",
    "orlop_engine.images.pull",
    "orlop_engine.images.registry_auth",
    "orlop_api_docker.wire.images",
    "orlop_engine.images.details",
    "orlop_engine.logs",
    "orlop_engine.spec.build",
    "orlop_engine.stats",
    "orlop_engine.system.service",
    "orlop_engine.unpacking",
}
_MOST = 275  # the largest allowed number of Orlop's modules


def test_daemon_imports_few_modules_before_its_first_answer() -> None:
    done = subprocess.run([sys.executable, "-c", _START], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert not found & LATER
    assert len([name for name in found if name.startswith("orlop_")]) <= _MOST


def test_modules_that_preload_imports_exist() -> None:
    """`preload` runs after the daemon's first answer, so a missing module would fail only then."""
    program = "import trio; from orlop_engine import preload; trio.run(preload.run)"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
