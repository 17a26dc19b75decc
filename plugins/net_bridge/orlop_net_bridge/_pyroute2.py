"""Imports pyroute2's modules without its `__init__.py`. Import this module before any module of pyroute2.

`import pyroute2.iproute` first runs `pyroute2/__init__.py`, which imports 64 modules (network databases, firewalls, Windows)
and 4 MB that the daemon does not use. This module installs an empty package instead. When a name of the package itself is
accessed, the real `__init__.py` is executed in this package.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _Umbrella(ModuleType):
    """The package pyroute2 before its `__init__.py` has run. Its modules can be imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or find_spec(f"{self.__name__}.{name}") is not None:
            # `name` is a module of the package, and the import system imports it after this error
            raise AttributeError(name)
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        # Switch to a plain module first, so that the package's own code sees ordinary attribute access.
        object.__setattr__(self, "__class__", ModuleType)
        spec.loader.exec_module(self)
        return getattr(self, name)


def _stand_in(spec: ModuleSpec) -> None:
    module = _Umbrella(spec.name)
    module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
    module.__path__ = list(spec.submodule_search_locations or ())
    module.__package__ = spec.name
    sys.modules[spec.name] = module


if "pyroute2" not in sys.modules and (_spec := find_spec("pyroute2")) is not None:
    _stand_in(_spec)
