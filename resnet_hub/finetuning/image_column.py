"""The encoded images of a data set, by row number; nothing but its own files is ever opened."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from resnet_hub.images import BadImageError, EncodedImage, read_header


@dataclass(frozen=True, kw_only=True)
class ImageColumn:
    """The images of all splits of a data set, one after the other, as encoded bytes."""

    table: datasets.Dataset
    """A single column, `{bytes, path}`, in arrow format."""
    folders: tuple[Path, ...]
    """Where rows may name files; a row that names any other file, or an address, is refused."""

    @classmethod
    def of(
        cls, splits: Mapping[str, datasets.Dataset], column: str, folders: tuple[Path, ...]
    ) -> "ImageColumn":
        """The column of all splits; images are left encoded."""
        parts = [
            split.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            for split in splits.values()
        ]
        return cls(table=datasets.concatenate_datasets(parts).with_format("arrow"), folders=folders)

    def encoded(self, rows: NDArray[np.int64]) -> Iterator[EncodedImage]:
        """The images in these rows, one after the other, their headers read; raises BadImageError."""
        return (read_header(self.read(stored)) for stored in self.stored(rows))

    def stored(self, rows: NDArray[np.int64]) -> Iterator[Any]:
        """What the table holds in these rows, one after the other, to be given to `read`."""
        table: Any = self.table[rows]  # finding rows costs as much for one as for a batch; nothing is copied
        return (value.as_py() for value in table.column(0))

    def read(self, value: Mapping[str, Any] | None) -> bytes:
        """The bytes of the image file that a row holds or names; raises BadImageError."""
        if value is None or (value["bytes"] is None and not value["path"]):
            raise BadImageError("is missing: None")
        if value["bytes"] is not None:
            return value["bytes"]
        path = Path(value["path"])
        real = path.resolve() if path.is_symlink() else _real_folder(path.parent) / path.name
        if not any(real.is_relative_to(folder) for folder in self.folders):
            raise BadImageError(f"is not in the data set but names another place: {value['path']}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise BadImageError(f"cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=4096)  # resolving walks the whole path, for every image of a folder again
def _real_folder(folder: Path) -> Path:
    return folder.resolve()
