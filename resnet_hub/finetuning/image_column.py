"""The encoded images of a data set, by row number; nothing but its own files is ever opened."""

from collections.abc import Mapping, Sequence
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

    def encoded(self, row: int) -> EncodedImage:
        """The image in a row, its header read; raises BadImageError."""
        (stored,) = self.stored([row])
        return read_header(self.read(stored))

    def stored(self, rows: Sequence[int] | NDArray[np.int64]) -> list[Any]:
        """What the table holds in these rows, to be given to `read`."""
        table: Any = self.table[rows]
        return table.column(0).to_pylist()

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
