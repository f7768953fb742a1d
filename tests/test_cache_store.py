"""A cache stays below its limit, forgets what was unused for longest, and touches nothing else."""

import os
import time
from pathlib import Path

import pytest

from resnet_hub.cache_store import CacheStore

OLD = 100_000  # seconds


def digest(number: int) -> str:
    return f"{number:040x}"


def store(folder: Path, *, files: float = 3) -> CacheStore:
    """With room for so many files of 100 bytes."""
    return CacheStore(folder, "pixels", limit_bytes=files * 100)


def write(cache: CacheStore, *numbers: int, age: float = OLD) -> list[Path]:
    """Files of 100 bytes, each used a second after the one before."""
    paths = [cache.path(digest(number)) for number in numbers]
    for place, path in enumerate(paths):
        cache.write(path, bytes(100))
        os.utime(path, (time.time() - age + place,) * 2)
    return paths


def there(paths: list[Path]) -> list[bool]:
    return [path.exists() for path in paths]


def test_the_longest_unused_go_first_and_no_more_of_them_than_needed(tmp_path: Path):
    paths = write(store(tmp_path), 1, 2, 3)
    cache = store(tmp_path)
    assert cache.make_room({cache.path(digest(4)): 100})
    assert there(paths) == [False, True, True]
    assert cache.make_room({cache.path(digest(5)): 1})
    assert there(paths) == [False, False, True]


def test_what_was_used_here_is_not_removed_and_where_only_that_is_left_there_is_no_room(tmp_path: Path):
    paths = write(store(tmp_path), 1, 2, 3)
    cache = store(tmp_path)
    cache.mark_used(paths[0])
    assert cache.make_room({cache.path(digest(4)): 100})
    assert there(paths) == [True, False, True]
    cache.mark_used(paths[2])
    assert not cache.make_room({cache.path(digest(5)): 100})
    assert cache.make_room({cache.path(digest(4)): 100})  # which has its room already
    assert there(paths) == [True, False, True]


def test_what_another_process_has_removed_is_no_error(tmp_path: Path):
    cache = store(tmp_path / "not made yet")
    assert cache.make_room({})
    cache.mark_used(cache.path(digest(1)))
    assert cache.paths_of(digest(1)) == []


def test_files_of_one_first_digest_are_found_together(tmp_path: Path):
    cache = store(tmp_path)
    wanted = [cache.path(digest(1), digest(number)) for number in range(2)]
    for path in (*wanted, cache.path(digest(2), digest(1)), tmp_path / f"resnet_hub-{digest(1)}-my.pixels"):
        path.write_bytes(b"x")
    assert cache.paths_of(digest(1)) == wanted


@pytest.mark.parametrize("age", [0, OLD])
def test_only_files_of_exactly_our_names_are_removed_however_full_and_old_it_is(tmp_path: Path, age: int):
    others = [
        *(
            "iris.features.csv",
            "photo.pixels.png",
            "photo.pixels",
            "notes.txt",
            ".part",
            ".photo.pixels.part",
        ),
        *(f"{digest(1)}.pixels", f"{digest(1)}.pixels.4711-0123abcd"),  # the version before called ours so
        *(f"resnet_hub-{digest(1)}.features", f"resnet_hub-{digest(1)}.pixels.png", "resnet_hub-mine.pixels"),
        *(f".photo.pixels.{0:016x}.part", f".resnet_hub-{digest(1)}.features.{0:016x}.part"),
        *(f"my_resnet_hub-{digest(1)}.pixels", f"resnet_hub-{digest(0xA).upper()}.pixels"),
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "folder.pixels").mkdir()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - age,) * 2)
    before = {path.name for path in tmp_path.iterdir()}
    write(store(tmp_path), 1, 2)
    assert store(tmp_path, files=0).make_room({})
    assert {path.name for path in tmp_path.iterdir()} == before


def test_unfinished_files_of_killed_processes_go_once_nobody_can_be_writing_them(tmp_path: Path):
    cache = store(tmp_path)
    old, new = (tmp_path / f".{cache.path(digest(1)).name}.{number:016x}.part" for number in range(2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - OLD,) * 2)
    assert cache.make_room({})
    assert there([old, new]) == [False, True]
