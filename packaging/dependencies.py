"""A metadata hook of hatchling. It sets the dependencies of the metapackage `orlop`: all distributions of this checkout.

If the metapackage is built from the checkout (`pip install .`), the dependencies are directories, so that pip builds and
installs them, too. With ORLOP_RELEASE=1 (`./dev package wheels`), the dependencies are names with exact versions, and pip
finds the wheels in the same directory.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class DependenciesHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        metadata["dependencies"] = dependencies(Path(self.root), release=os.environ.get("ORLOP_RELEASE") == "1")


def dependencies(root: Path, *, release: bool) -> list[str]:
    found = []
    for file in sorted(root.glob("*/pyproject.toml")) + sorted(root.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        where = f"=={project['version']}" if release else f" @ {file.parent.as_uri()}"
        found.append(f"{project['name']}{where}")
    return found
