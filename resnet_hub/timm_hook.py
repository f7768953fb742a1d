"""Put the family into timm as soon as timm is imported, so that `import resnet_hub` need not wait for torch.

Importing timm and torch takes seconds, and `resnet-hub --help` must not. So a finder in `sys.meta_path` waits
for somebody to import timm, and imports `resnet_hub.models` right after it, which registers the family.

Two things would break this. A module that the family needs, as `downloads` is, must not import timm: it would
be half imported when the family asks for it. And two threads must not wait for each other, one in timm for a
module of the family and one in that module for timm: see `IMPORTING`.
"""

import sys
import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_FAMILY = "resnet_hub.models"

IMPORTING = threading.RLock()
"""Held while a public name is imported.

Python locks a module before the package that it is in. So two threads would wait for each other, of which one
imports the family for timm and the other a part of it for a public name. A thread that finds this lock taken
leaves the family to its holder, which calls `register_family_if_timm_is_there`.
"""


def register_family_with_timm() -> None:
    """Import the family, which registers itself: now if timm is imported already, else right after it."""
    if "timm" in sys.modules:
        import_module(_FAMILY)
    else:
        sys.meta_path.insert(0, _TimmFinder())


def register_family_if_timm_is_there() -> None:
    """Import the family if another thread imported timm meanwhile."""
    if "timm" in sys.modules and _FAMILY not in sys.modules:
        import_module(_FAMILY)


class _TimmFinder:
    """Finds timm by asking the other finders, and stays until an import of timm has succeeded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((found for found in others if found is not None), None)
        if spec is not None and spec.loader is not None:
            # Only this one loader is changed, and only until it runs: inspect and pickle need its own class.
            spec.loader.exec_module = partial(self._load, spec.loader)
        return spec

    def _load(self, loader: Any, module: ModuleType) -> None:
        del loader.exec_module  # that of its class comes back
        loader.exec_module(module)
        sys.meta_path.remove(self)
        # The import system would make other threads wait for timm until this returns, though timm is whole.
        module.__spec__._initializing = False  # pyright: ignore
        if IMPORTING.acquire(blocking=False):
            try:
                register_family_if_timm_is_there()
            finally:
                IMPORTING.release()
