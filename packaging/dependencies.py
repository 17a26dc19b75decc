"""A metadata hook of hatchling: what the metapackage `orlop` depends on, which is every distribution of this checkout.

Built from the checkout, as by `pip install .`, it refers to their directories, so that pip builds and installs them as well.
With ORLOP_RELEASE=1, as `./dev package wheels` builds it, it names each at its own version, and pip finds them beside it.
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
