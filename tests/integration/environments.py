"""Virtual environments for daemons with drivers that no other test sees. PYTHONPATH is not enough: the zygote ignores it."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import Any
from venv import EnvBuilder

from tests.integration.engine import Engine

__all__ = ["PluginEngine", "environment"]


class PluginEngine(Engine):
    """A daemon in a virtual environment that `environment` made."""

    def __init__(self, config: dict[str, Any], venv: Path) -> None:
        self.python = str(venv / "bin" / "python")
        super().__init__(config)

    @property
    def command(self) -> list[str]:
        return [self.python if word == sys.executable else word for word in super().command]


def environment(top: Path) -> Path:
    """Make the virtual environment `top`, which also has the packages of this environment. Its `bin` has orlopd. Returns its
    directory of packages."""
    EnvBuilder(symlinks=True).create(top)
    (site,) = top.glob("lib/python3*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    program = top / "bin" / "orlopd"
    program.write_text(f"#!{top}/bin/python\nimport sys\nfrom orlop_kernel.__main__ import main\nsys.exit(main())\n")
    program.chmod(0o755)
    return site
