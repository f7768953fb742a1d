"""What the caches on disk share: files that appear whole, and a limit below which a folder is kept."""

import os
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from resnet_hub.errors import ConfigError

_SECONDS_TO_WRITE = 3600  # no file takes longer


def check_cache_folder(folder: Path | None, *, flag: str) -> None:
    """Raise ConfigError, naming the flag, if files cannot be written there; writes nothing."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--{flag} {folder} is a file; name a folder.")
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"--{flag} {folder}: {parent} cannot be written to.")


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, and give it its own once it is on the disk.

    Raises OSError, with nothing left behind, if the disk refuses it.
    """
    # Two processes, on two machines too, may write the same file.
    temporary = path.with_suffix(f"{path.suffix}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def make_room(folder: Path, suffix: str, *, ours: Collection[str], our_bytes: int, limit_bytes: float) -> int:
    """Remove files with this suffix, the longest unused first, until ours fit; returns the bytes of the rest.

    Files that are called as in `ours` stay and are not counted. Unfinished files of processes that were
    killed are removed too.
    """
    others: list[tuple[float, int, Path]] = []
    for path in folder.glob(f"*{suffix}*"):
        with suppress(OSError):
            found = path.stat()
            is_unfinished = path.suffix != suffix
            if is_unfinished and time.time() - found.st_mtime > _SECONDS_TO_WRITE:
                path.unlink()
            elif path.name not in ours:
                others.append((found.st_mtime, found.st_size, path))
    remaining = sum(size for _, size, _ in others)
    for _, size, path in sorted(others):
        if our_bytes + remaining <= limit_bytes:
            break
        with suppress(OSError):
            path.unlink()
            remaining -= size
    return remaining
