"""Folders of cached files: names that nobody else gives, a limit in bytes, the longest unused removed first.

A cached file is called `resnet_hub-<40 hex digits>.<kind>`, or has two such digests. Nothing of another name
is ever counted or removed, so a cache may share its folder with anything.
"""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from resnet_hub.files import remove_leftovers, write_atomically

_SECONDS_TO_WRITE = 3600  # no file takes longer


class CacheStore:
    """Cached files of one kind in a folder, which several processes may use at once."""

    def __init__(self, folder: Path, kind: str, *, limit_bytes: float) -> None:
        """Keep files of this kind, the ending of their names, in `folder`; it is made for the first one."""
        self.folder = folder
        self._kind, self._limit_bytes = kind, limit_bytes
        self._ours = re.compile(rf"resnet_hub(-[0-9a-f]{{40}}){{1,2}}\.{kind}")
        self._in_use: dict[str, int] = {}

    def path(self, *digests: str) -> Path:
        """Where the file of one or two digests, 40 hex digits each, is or would be."""
        path = self.folder / f"{'-'.join(('resnet_hub', *digests))}.{self._kind}"
        assert self._ours.fullmatch(path.name)
        return path

    def paths_of(self, digest: str) -> list[Path]:
        """All files whose first digest is this one."""
        paths = self.folder.glob(f"resnet_hub-{digest}-*.{self._kind}")
        return sorted(path for path in paths if self._ours.fullmatch(path.name))

    def mark_used(self, path: Path) -> None:
        """Remove this file after all others, and in this process not at all."""
        with suppress(OSError):  # another process has made room
            os.utime(path)
            self._in_use[path.name] = path.stat().st_size

    def make_room(self, sizes: Mapping[Path, int]) -> bool:
        """Remove the longest unused files until these, with their bytes, fit beside those used here.

        Nothing is removed, and False returned, if they cannot fit.
        """
        in_use = self._in_use | {path.name: size for path, size in sizes.items()}
        room = self._limit_bytes - sum(in_use.values())
        if room < 0:
            return False
        self._in_use = in_use
        remove_leftovers(self.folder, named=self._ours, unchanged_seconds=_SECONDS_TO_WRITE)
        for _, size, path in sorted(self._others(), reverse=True):
            room -= size
            if room < 0:
                with suppress(OSError):
                    path.unlink()
        return True

    def write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all; raises OSError."""
        write_atomically(path, data)
        self.mark_used(path)

    def _others(self) -> list[tuple[float, int, Path]]:
        """When each file that is not used here was used, its bytes, and its path."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if self._ours.fullmatch(path.name) and path.name not in self._in_use:
                with suppress(OSError):
                    found.append((path.stat().st_mtime, path.stat().st_size, path))
        return found
