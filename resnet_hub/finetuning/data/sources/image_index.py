"""The images below a folder, found by what a table calls them."""

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from resnet_hub.finetuning.data.sources.layout import split_of
from resnet_hub.images.folders import find_images_below

_ABSOLUTE = re.compile(r"/|~|[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")

Verdict = Literal["found", "missing", "ambiguous", "outside"]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a name leads; for a name that leads to no image, a path that will be refused or not be there."""

    path: str
    verdict: Verdict


class ImageIndex:
    """Images by their path from the folder, by the end of it, and by both without the extension."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        found = find_images_below(folder)
        self.paths, self.left_out = found.paths, found.left_out
        self._inside: dict[str, bool] = {}
        self._by_path: dict[str, str] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._by_end: dict[str, list[str]] = {}
        start = len(str(folder)) + 1
        for path in self.paths:
            name = path[start:].replace(os.sep, "/")
            self._by_path[name] = path
            self._by_stem.setdefault(_stem(name), []).append(path)
            for end in _ends(name):
                self._by_end.setdefault(end, []).append(path)
                self._by_end.setdefault(_stem(end), []).append(path)

    def find(self, name: str, split: str | None = None, *, start: str = "") -> Place:
        """The image that is called `name`: a path from the folder, or from `start` in it.

        Its extension may be left out. Where the path itself is not there, it may lie in a folder such as
        `images/`, as long as there is one such image only; of several, those in a folder that is named like
        the split count.
        """
        name = name.strip().replace("\\", "/")
        from_start = posixpath.normpath(posixpath.join(start, name))
        if _ABSOLUTE.match(name) or from_start.split("/")[0] == "..":
            return Place(path=name if name.startswith("/") else f"{self.folder}/{name}", verdict="outside")
        name = posixpath.normpath(name)
        candidates = [found] if (found := self._by_path.get(from_start)) else self._candidates(name)
        if len(candidates) > 1:
            candidates = [path for path in candidates if self._split_of(path) == split] or candidates
        if len(candidates) != 1:
            verdict = "ambiguous" if candidates else "missing"
            return Place(path=str(self.folder / name), verdict=verdict)
        path = candidates[0]
        if self._is_inside(path):
            return Place(path=path, verdict="found")
        return Place(path=os.path.realpath(path), verdict="outside")

    def _candidates(self, name: str) -> list[str]:
        if name in self._by_path:
            return [self._by_path[name]]
        return self._by_stem.get(name) or self._by_end.get(name) or self._in_any_case.get(name.lower(), [])

    @cached_property
    def _in_any_case(self) -> dict[str, list[str]]:
        """As tables are made where `1.jpg` and `1.JPG` are one file."""
        found: dict[str, list[str]] = {}
        for name, path in self._by_path.items():
            for end in (name, *_ends(name)):
                found.setdefault(end.lower(), []).append(path)
        return found

    def _split_of(self, path: str) -> str | None:
        folders = Path(path).relative_to(self.folder).parts[:-1]
        return next((split for folder in folders if (split := split_of(folder)) is not None), None)

    def _is_inside(self, path: str) -> bool:
        """Whether a file is in the folder with all links followed."""
        if os.path.islink(path):  # noqa: PTH114  for each of many files
            return Path(path).resolve().is_relative_to(self.folder.resolve())
        above = os.path.dirname(path)  # noqa: PTH120
        if above not in self._inside:
            self._inside[above] = Path(above).resolve().is_relative_to(self.folder.resolve())
        return self._inside[above]


def _ends(name: str) -> Iterator[str]:
    """`a/b/c.jpg` -> `b/c.jpg`, `c.jpg`."""
    while "/" in name:
        name = name.partition("/")[2]
        yield name


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
