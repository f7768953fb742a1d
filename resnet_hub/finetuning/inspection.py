"""A look at every image before training: is it readable, how large is it, does it occur twice?

Each image is read and decoded once, at the lowest resolution, on all cores. After that no image can stop a
run, and every process knows the same ones to leave out.
"""

import hashlib
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_hub.finetuning.cores import available_cores
from resnet_hub.finetuning.image_column import ImageColumn
from resnet_hub.images import BadImageError, read_header

logger = logging.getLogger(__name__)

_CHUNK = 1024  # images whose bytes are in memory at once
_WORTH_SAYING = 5_000  # images; below, it takes a few seconds
_DIGEST_BYTES = 16


class ImageFacts(NamedTuple):
    """What one look at an image tells."""

    digest: bytes
    """Of the encoded bytes, in hexadecimal; empty if there are none."""
    width: int
    height: int
    kind: str
    """Format and PIL mode of the file: `JPEG RGB`."""
    problem: str
    """Why it cannot be used; empty if it can."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was seen in the images of some rows, in their order."""

    digests: NDArray[np.bytes_]
    """Of the encoded bytes, (rows,)."""
    sizes: NDArray[np.int32]
    """Width and height, (rows, 2); 0 where unreadable."""
    kinds: NDArray[np.object_]
    """File format and PIL mode, (rows,); empty where unreadable."""
    problems: NDArray[np.object_]
    """Why the image of each row cannot be used, (rows,); empty for those that can."""

    def take(self, positions: NDArray[np.int64]) -> "Inspection":
        """The same for some of the rows."""
        return Inspection(
            digests=self.digests[positions],
            sizes=self.sizes[positions],
            kinds=self.kinds[positions],
            problems=self.problems[positions],
        )


def inspect_images(images: ImageColumn, rows: NDArray[np.int64]) -> Inspection:
    """Look at the images of `rows`, which are decoded as far as needed to know that they can be."""
    if len(rows) >= _WORTH_SAYING:
        logger.info("Reading %s images once, to find broken ones and duplicates", f"{len(rows):,}")
    facts = list(_look_at_all(images, rows))
    return Inspection(
        digests=np.array([fact.digest for fact in facts], dtype=f"S{2 * _DIGEST_BYTES}"),
        sizes=np.array([(fact.width, fact.height) for fact in facts], dtype=np.int32).reshape(-1, 2),
        # Objects, not NumPy's strings: those would give every row the room of the longest.
        kinds=np.array([sys.intern(fact.kind) for fact in facts], dtype=np.object_),
        problems=np.array([fact.problem for fact in facts], dtype=np.object_),
    )


def look_at(images: ImageColumn, stored: Any) -> ImageFacts:
    """Read and decode one image, given what the table holds of it."""
    data = b""
    try:
        data = images.read(stored)
        encoded = read_header(data)
        kind = f"{encoded.file.format} {encoded.file.mode}"
        encoded.decode(at_least=(1, 1))
    except BadImageError as error:
        return ImageFacts(_digest(data), 0, 0, "", str(error))
    return ImageFacts(_digest(data), encoded.width, encoded.height, kind, "")


def _look_at_all(images: ImageColumn, rows: NDArray[np.int64]) -> Iterator[ImageFacts]:
    # Threads are enough: decoding and hashing are done outside Python's lock.
    with ThreadPoolExecutor(max_workers=available_cores()) as pool:
        for start in range(0, len(rows), _CHUNK):
            yield from pool.map(partial(look_at, images), images.stored(rows[start : start + _CHUNK]))


def _digest(data: bytes) -> bytes:
    # Hexadecimal, because NumPy's byte strings lose zeros at their end.
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest().encode() if data else b""
