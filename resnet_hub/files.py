"""Files and folders that appear whole or not at all, outlast a loss of power, and replace nothing unasked.

Whatever is being written lies beside its place as `.NAME.<16 hex digits>.part`; a folder that is about to be
replaced, as `.NAME.<16 hex digits>.old`. Nothing else is ever taken for a leftover.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from resnet_hub.errors import ConfigError

_IS_WINDOWS = os.name == "nt"
_SCRATCH = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.(part|old)", re.DOTALL)


def expanded(path: Path | str) -> Path:
    """The path with `~` or `~user` replaced by that home folder; left as it is where there is none."""
    return Path(expanded_text(path))


def expanded_text(text: Path | str) -> str:
    """What may be a path or a name, likewise; a name stays as it is."""
    return os.path.expanduser(text)  # noqa: PTH111  Path.expanduser raises where there is no such home


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a loss of power."""
    if _IS_WINDOWS and path.is_dir():  # it opens no folders, and keeps a journal of the names in them
        return
    # Windows flushes only what was opened for writing; elsewhere a read-only file has to do as well.
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_without_links(path: Path, mode: str) -> IO[str]:
    """Open a text file for writing; OSError if it is a link, with which somebody else chose what is written.

    For files that are written in place in a folder where others may write: a link would lead to any file of
    the user.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)  # Windows has no such flag

    return open(path, mode, encoding="utf-8", newline="\n", opener=opener)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to: when the block ends well, its file takes the place of `path`, durably.

    Folders above it are made. Processes on several machines may write the same file; the last one wins.
    Nothing is left behind if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _beside(path, "part")
    try:
        yield scratch
        fsync(scratch)
        scratch.replace(path)
        fsync(path.parent)
    finally:
        with suppress(OSError):
            scratch.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8. Raises OSError, and `path` is then as it was."""
    with atomic_file(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into: when the block ends well, it takes the place of `folder`, durably.

    With `overwrite` all that `folder` holds is removed: the caller knows that nothing of it is missed. Raises
    ConfigError if it holds something otherwise.
    """
    folder = folder.resolve()  # a link stays, and what it points at is replaced
    scratch = _beside(folder, "part")
    scratch.mkdir(parents=True)
    try:
        yield scratch
        _make_durable(scratch)
        if not overwrite:
            check_new_folder(folder)
        if folder.exists():
            _replace(folder, scratch)
        else:
            scratch.rename(folder)
            fsync(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Whether a name is one that this module gives to what is being written."""
    return _SCRATCH.fullmatch(path.name) is not None and not path.is_symlink()


def remove_leftovers(
    folder: Path, *, named: re.Pattern[str] | None = None, unchanged_seconds: float = 0.0
) -> None:
    """Remove what killed processes were writing in this folder, under any name or one that matches.

    What was changed less than `unchanged_seconds` ago stays, as a process may be writing it now. A folder
    that was moved away, and whose successor did not come to take its place, gets its name back.
    """
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _SCRATCH.fullmatch(path.name)
        if match is None or path.is_symlink() or (named and not named.fullmatch(match["name"])):
            continue
        with suppress(OSError):  # another process may be clearing up too
            if time.time() - path.stat().st_mtime >= unchanged_seconds:
                found.append((path.stat().st_ctime_ns, path, folder / match["name"]))
    for _, path, place in sorted(found, reverse=True):  # of several moved away, the newest returns
        with suppress(OSError):
            if path.suffix == ".old" and not place.exists():
                path.rename(place)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def check_new_file(path: Path, *, flag: str | None = None) -> None:
    """Raise ConfigError, naming the flag, if something is there."""
    if path.exists():
        name = f"--{flag} {path}" if flag else path
        raise ConfigError(f"{name} already exists and is not overwritten. Name another file.")


def check_new_folder(folder: Path, *, flag: str | None = None) -> None:
    """Raise ConfigError, naming the flag, if something is there other than an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        name = f"--{flag} {folder}" if flag else folder
        raise ConfigError(f"{name} already exists and is not overwritten. Name a new folder.")


def check_can_hold_files(folder: Path, *, flag: str) -> None:
    """Raise ConfigError, naming the flag, if files cannot be written there; writes nothing."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise ConfigError(f"--{flag} {folder}: {parent} is a file. Name a folder.")
    if not os.access(parent, os.W_OK):
        raise ConfigError(f"--{flag} {folder}: {parent} cannot be written to.")


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{kind}")


def _make_durable(folder: Path) -> None:
    readable = folder.stat().st_mode & 0o666  # what the user's umask grants; safetensors writes private files
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(readable)
        fsync(path)
    fsync(folder)


def _replace(folder: Path, scratch: Path) -> None:
    """Give the scratch folder the name of `folder`, which is removed; if that fails, it stays as it was."""
    old = _beside(folder, "old")
    try:
        folder.rename(old)
        scratch.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    fsync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)  # the new one is in place; what is left of this is no failure
