"""pyroute2 without its umbrella. To be imported before the first module of the package.

`import pyroute2.iproute` first runs `pyroute2/__init__.py`, which imports everything there is: network databases, firewalls,
Windows, 64 modules and 4 MB that a daemon which sets up bridges never uses. Until somebody asks the package itself for a
name, an empty one stands in for it; then it becomes the real one, in place.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _Umbrella(ModuleType):
    """The package with its modules, and none of its names yet."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or find_spec(f"{self.__name__}.{name}") is not None:
            raise AttributeError(name)  # a module of the package: the import system goes on to look for it as one
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        # From now on the real one: what the package's own code asks of itself is answered as ever.
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
