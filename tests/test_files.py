"""What is written appears whole or not at all, and nothing of anybody else's is replaced or removed."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from resnet_hub import files
from resnet_hub.errors import ConfigError
from resnet_hub.files import (
    atomic_file,
    atomic_folder,
    check_can_hold_files,
    check_new_file,
    check_new_folder,
    fsync,
    remove_leftovers,
    write_atomically,
)

LEFT = ".0123456789abcdef.part"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may become larger than 1,000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_takes_the_place_of_another_and_folders_above_it_are_made(tmp_path: Path):
    path = tmp_path / "deep" / "er" / "name.json"
    for content in ("früher\n", b"\xff\0"):
        write_atomically(path, content)
    assert path.read_bytes() == b"\xff\0"
    assert names_in(path.parent) == ["name.json"]


def test_text_is_utf8_with_the_line_ends_that_it_has(tmp_path: Path):
    write_atomically(tmp_path / "text", "für\n")
    assert (tmp_path / "text").read_bytes() == "für\n".encode()


def test_on_a_full_disk_the_file_stays_as_it_was_and_nothing_is_left(tmp_path: Path, full_disk: None):
    write_atomically(tmp_path / "name", "old")
    with pytest.raises(OSError, match="too large"):
        write_atomically(tmp_path / "name", "new" * 1000)
    assert (tmp_path / "name").read_text() == "old"
    assert names_in(tmp_path) == ["name"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_raises_leaves_nothing_and_replaces_nothing(tmp_path: Path, error: type[BaseException]):
    write_atomically(tmp_path / "file", "old")
    write_atomically(tmp_path / "folder" / "file", "old")
    with suppress(error), atomic_file(tmp_path / "file") as scratch:
        scratch.write_text("half")
        raise error
    with suppress(error), atomic_folder(tmp_path / "folder", overwrite=True) as scratch:
        (scratch / "file").write_text("half")
        raise error
    assert names_in(tmp_path) == ["file", "folder"]
    assert {(tmp_path / name).read_text() for name in ("file", "folder/file")} == {"old"}


def test_of_two_writers_of_one_file_each_writes_it_whole(tmp_path: Path):
    path = tmp_path / "shared"
    contents = {letter * 200_000 for letter in "abcd"}

    def write_often(content: str) -> None:
        for _ in range(20):
            write_atomically(path, content)

    threads = [threading.Thread(target=write_often, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_text() in contents
    assert names_in(tmp_path) == ["shared"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_process_that_is_killed_while_it_writes_leaves_what_can_be_told_and_removed(
    tmp_path: Path, what: str
):
    write_atomically(tmp_path / "target" / "x" if what == "folder" else tmp_path / "target", "old")
    context = "atomic_file(path)" if what == "file" else "atomic_folder(path, overwrite=True)"
    program = f"""if True:
        import os, signal, sys
        from pathlib import Path
        from resnet_hub.files import atomic_file, atomic_folder
        path = Path(sys.argv[1])
        with {context} as scratch:
            (scratch / "x" if scratch.is_dir() else scratch).write_text("new")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "target"], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names_in(tmp_path)) == 2
    remove_leftovers(tmp_path, unchanged_seconds=3600)
    assert len(names_in(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == ["target"]
    assert (tmp_path / "target" / "x" if what == "folder" else tmp_path / "target").read_text() == "old"


def test_everything_in_a_folder_reaches_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch):
    log: list[str] = []
    monkeypatch.setattr(files, "fsync", lambda path: log.append(path.name))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (log.append("rename"), rename(path, to))[1])
    with atomic_folder(tmp_path / "new") as scratch:
        (scratch / "deep").mkdir()
        (scratch / "deep" / "file").write_text("x")
    assert log == ["deep", "file", scratch.name, "rename", tmp_path.name]


def test_a_folder_that_came_meanwhile_is_not_replaced(tmp_path: Path):
    with pytest.raises(ConfigError, match="already exists"), atomic_folder(tmp_path / "new"):
        write_atomically(tmp_path / "new" / "mine", "x")
    assert names_in(tmp_path) == ["new"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_in_a_folder_are_as_private_as_the_umask_says(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        with atomic_folder(tmp_path / "new") as scratch:
            os.close(os.open(scratch / "file", os.O_CREAT, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_folder_that_was_moved_away_gets_its_name_back_and_of_several_the_newest(tmp_path: Path):
    for number in range(3):
        write_atomically(tmp_path / f".export.{number:016x}.old" / "number", str(number))
        time.sleep(0.02)  # the clock of a file system is coarse
    write_atomically(tmp_path / f".export{LEFT}" / "number", "half")
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == ["export"]
    assert (tmp_path / "export" / "number").read_text() == "2"


@pytest.mark.parametrize("age", [0.0, 1e6])
def test_only_exact_names_of_ours_are_leftovers(tmp_path: Path, age: float):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    here = tmp_path / "here"
    here.mkdir()
    others = (
        *(
            ".export.part",
            ".export.mine.part",
            ".export.0123456789ABCDEF.part",
            "export.0123456789abcdef.part",
        ),
        *(".export.0123456789abcdef.partly", ".export.0123456789abcdef0.old", ".0123456789abcdef.part"),
        *("iris.tmp", "table.csv.partial", ".writing-notes", "iris.features.csv", "photo.pixels.png"),
    )
    for name in others:
        (here / name).write_text("mine")
    (here / f".link{LEFT}").symlink_to(elsewhere)
    for path in here.iterdir():
        if not path.is_symlink():
            os.utime(path, (time.time() - age,) * 2)
    before = names_in(here)
    (here / f".table.csv{LEFT}").write_text("half")
    remove_leftovers(here)
    assert names_in(here) == before
    assert elsewhere.exists()
    remove_leftovers(tmp_path / "none")


def test_a_new_file_or_folder_is_told_from_one_that_would_be_lost(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write_atomically(tmp_path / "full" / "file", "x")
    for free in ("new", "empty"):
        check_new_folder(tmp_path / free, flag="output_dir")
    check_new_file(tmp_path / "new", flag="output")
    for taken in ("full", "full/file"):
        with pytest.raises(ConfigError, match=f"^--output_dir .*{taken} already exists"):
            check_new_folder(tmp_path / taken, flag="output_dir")
    with pytest.raises(ConfigError, match=r"^--output .*file already exists"):
        check_new_file(tmp_path / "full" / "file", flag="output")


def test_a_folder_that_cannot_hold_files_is_refused_before_anything_is_made(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(ConfigError, match=r"--cache .*file is a file"):
            check_can_hold_files(folder, flag="cache")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # the superuser may write anywhere
    with pytest.raises(ConfigError, match=f"--cache .*: {tmp_path} cannot be written to"):
        check_can_hold_files(tmp_path / "deep" / "er", flag="cache")
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("windows", [False, True])
def test_on_windows_files_are_flushed_through_handles_that_may_write_and_folders_are_not_opened(
    tmp_path, monkeypatch, windows
):
    (tmp_path / "file").write_text("x")
    opened: dict[Path, int] = {}
    flushed: list[int] = []
    real_open, real_fsync = os.open, os.fsync
    monkeypatch.setattr(files, "_IS_WINDOWS", windows)
    monkeypatch.setattr(
        os, "open", lambda path, flags: opened.update({path: flags}) or real_open(path, flags)
    )
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(handle) or real_fsync(handle))
    for path in (tmp_path / "file", tmp_path):
        fsync(path)
    assert opened == ({tmp_path / "file": os.O_RDWR} if windows else dict.fromkeys(opened, os.O_RDONLY))
    assert len(flushed) == len(opened) == (1 if windows else 2)
