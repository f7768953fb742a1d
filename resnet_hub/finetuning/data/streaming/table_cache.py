"""Tables that are read from elsewhere once and then mapped from the disk, beside what `datasets` caches."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import datasets.config
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock

_ROWS_AT_ONCE = 100  # in memory while a table is written


def cache_path(*key: Any) -> Path:
    """Where the table of this key is kept; everything that decides what is in it belongs into the key."""
    name = hashlib.sha256(repr((1, *key)).encode()).hexdigest()[:40]
    return Path(datasets.config.HF_DATASETS_CACHE) / "resnet_hub" / "streamed" / f"{name}.arrow"


def write_once(
    path: Path, features: datasets.Features, rows: Callable[[], Iterable[Mapping[str, Any]]]
) -> datasets.Dataset:
    """The table at `path`, written from `rows()` if it is not there yet.

    Of all processes of a machine one reads the rows and the others wait. A file appears whole or not at all.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            with ArrowWriter(
                path=str(temporary), features=features, writer_batch_size=_ROWS_AT_ONCE
            ) as writer:
                for row in rows():
                    writer.write(dict(row))
                writer.finalize()
            temporary.replace(path)
    return datasets.Dataset.from_file(str(path))
