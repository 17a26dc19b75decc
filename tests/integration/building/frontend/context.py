"""The context of the image: the Python that runs the tests with its libraries, h2, protobuf, and the program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import resources
from pathlib import Path

__all__ = ["write_context"]

_LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "dist-packages")
_PACKAGES = ("h2", "hpack", "hyperframe", "google")
_PYTHON = "/python"
_DOCKERFILE = f"""FROM scratch
COPY root /
LABEL moby.buildkit.frontend.caps="moby.buildkit.frontend.inputs,moby.buildkit.frontend.contexts"
ENV PYTHONHOME={_PYTHON} PYTHONPATH=/packages PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["{_PYTHON}/bin/python3", "-S", "/program.py"]
"""


def write_context(directory: Path) -> None:
    """Write a directory from which `docker build` makes the frontend's image."""
    root, version = directory / "root", f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = root / "packages"
    home = root / _PYTHON.lstrip("/")
    (home / "bin").mkdir(parents=True)
    packages.mkdir()
    (root / "tmp").mkdir()
    binary = os.path.realpath(sys.executable)
    shutil.copy(binary, home / "bin" / "python3")
    library = home / "lib" / version
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=shutil.ignore_patterns("__pycache__", *_LEFT_OUT))
    for name in _PACKAGES:
        [source] = resources.files(name)._paths if name == "google" else [Path(str(resources.files(name)))]  # type: ignore[attr-defined]
        shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    _messages(packages / "bkpb")
    for name in ("program.py", "containers.py"):
        shutil.copy(Path(__file__).with_name(name), root / name)
    for needed in _libraries([binary, *map(str, library.rglob("*.so")), *map(str, packages.rglob("*.so"))]):
        target = root / needed.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(needed, target)
    (directory / "Dockerfile").write_text(_DOCKERFILE)


def _messages(target: Path) -> None:
    """The builder's definitions of BuildKit's messages, as a package that needs nothing else."""
    source = Path(str(resources.files("orlop_build_dockerfile.pb")))
    target.mkdir()
    (target / "__init__.py").touch()
    for path in source.glob("*_pb2.py"):
        text = path.read_text().replace("from orlop_build_dockerfile.pb import", "from bkpb import")
        (target / path.name).write_text(text)


def _libraries(files: list[str]) -> set[str]:
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False)
    return set(re.findall(r"(/\S+) \(0x", done.stdout))
