"""Tables that are read from elsewhere once and then mapped from the disk, beside what `datasets` caches."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import datasets.config
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock

from resnet_hub.cache_store import CacheStore
from resnet_hub.files import atomic_file

_ROWS_AT_ONCE = 100  # in memory while a table is written
_LIMIT_BYTES = 20e9


def cache_path(*key: Any) -> Path:
    """Where the table of this key is kept; everything that decides what is in it belongs into the key."""
    return _store().path(hashlib.sha256(repr((1, *key)).encode()).hexdigest()[:40])


def write_once(
    path: Path, features: datasets.Features, rows: Callable[[], Iterable[Mapping[str, Any]]]
) -> datasets.Dataset:
    """The table at `path`, written from `rows()` if it is not there yet.

    Of all processes of a machine one reads the rows and the others wait. A file appears whole or not at all.
    """
    store = _store()
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            store.make_room({})
            with (
                atomic_file(path) as scratch,
                ArrowWriter(path=str(scratch), features=features, writer_batch_size=_ROWS_AT_ONCE) as writer,
            ):
                for row in rows():
                    writer.write(dict(row))
                writer.finalize()
        store.mark_used(path)
        return datasets.Dataset.from_file(str(path))


def _store() -> CacheStore:
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "resnet_hub" / "streamed"
    return CacheStore(folder, "arrow", limit_bytes=_LIMIT_BYTES)
