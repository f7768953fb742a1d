"""A function that is called as soon as timm is there, so that `import resnet_hub` need not wait for torch.

Importing timm takes seconds, and `resnet-hub --help` must not. So the family is registered when timm is
imported, by whom ever: the import system asks the finders of `sys.meta_path` for each module, and the finder
here, first among them, answers for timm and for the modules of this package with what the others found, and
notices when the import is over. It waits for the outermost of these imports, because the modules of the
family import timm themselves, and what is half imported cannot be registered. Once used it takes itself out.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]


def when_timm_is_imported(call: Callable[[], object]) -> None:
    """Call the function once: now if timm is imported already, else as soon as it has been."""
    if "timm" in sys.modules:
        call()
    else:
        sys.meta_path.insert(0, _Finder(call))


class _Finder(MetaPathFinder):
    """Finds timm and our modules by asking the other finders, and counts the imports that are under way."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._timm_is_there = False
        self._under_way = 0  # in all threads: one that waits for another's import must not be waited for
        self._lock = threading.Lock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders say of the module, with a loader that tells when it is imported."""
        if fullname != "timm" and not fullname.startswith(f"{_PACKAGE}."):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)  # pyright: ignore[reportAttributeAccessIssue]  acts as one
        return spec

    def begin(self) -> None:
        """A module is about to be executed."""
        with self._lock:
            self._under_way += 1

    def end(self, *, timm_is_there: bool) -> None:
        """A module was executed; the last one to end calls, if timm is there."""
        with self._lock:
            self._under_way -= 1
            self._timm_is_there |= timm_is_there
            is_time = self._under_way == 0 and self._timm_is_there and self in sys.meta_path
            if is_time:
                sys.meta_path.remove(self)
        if is_time:
            self._call()


class _Loader:
    """The loader that was found, with a word to the finder; the module never gets to see it."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, which has its true loader from now on."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._finder.begin()
        done = False
        try:
            self._loader.exec_module(module)
            done = True
        finally:
            self._finder.end(timm_is_there=done and module.__name__ == "timm")
