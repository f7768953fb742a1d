"""A look at every image before training: is it readable, how large is it, does it occur twice?

Each image is read and decoded once, at the lowest resolution, by all processes of the run on all their cores.
After that no image can stop a run, and every process knows the same ones to leave out. What has been seen is
remembered on disk, so that a later run looks again only at images that have changed.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray

from resnet_hub.cache_store import CacheStore
from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.images.decoding import MAX_ASPECT, MAX_PIXELS, BadImageError, known_formats, read_header

logger = logging.getLogger(__name__)

DIGEST_BYTES = 16
_MEMORY_BYTES = 1e9  # some ten million images
_CHUNK = 512  # images between two moments at which a run can be stopped; a few seconds for large ones


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


class FactsMemory:
    """Facts of chunks of images in files of a folder; a chunk is known by the stamps of its images.

    What was wrong with an image is not kept: it may have been repaired, or its disk was away. Two processes
    may write the same chunk; a file appears whole or not at all.
    """

    def __init__(self, folder: Path | None) -> None:
        """Remember facts in `folder`, or nothing without one."""
        self._store = None if folder is None else CacheStore(folder, "facts", limit_bytes=_MEMORY_BYTES)
        self._has_made_room = False

    def recall(self, stamps: Sequence[str | None]) -> list[ImageFacts | None]:
        """The facts of each image of a chunk; None where they are not known."""
        nothing: list[ImageFacts | None] = [None] * len(stamps)
        if self._store is None or not any(stamps):
            return nothing
        path = self._store.path(_digest_of(stamps))
        try:
            checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return nothing
        if checksum != hashlib.sha256(text.encode()).hexdigest():
            return nothing
        self._store.mark_used(path)
        return [
            _recalled(kept) if stamp else None for stamp, kept in zip(stamps, json.loads(text), strict=True)
        ]

    def keep(self, stamps: Sequence[str | None], facts: Sequence[ImageFacts]) -> None:
        """Remember a chunk. A folder that cannot be written costs a later run the same look again."""
        if self._store is None or not any(stamps):
            return
        kept = [
            (seen.digest.decode(), seen.width, seen.height, seen.kind) if stamp and not seen.problem else None
            for stamp, seen in zip(stamps, facts, strict=True)
        ]
        text = json.dumps(kept, separators=(",", ":"))
        data = f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode()
        try:
            if not self._has_made_room:  # once: a data set has thousands of chunks
                self._has_made_room = self._store.make_room({})
            self._store.write(self._store.path(_digest_of(stamps)), data)
        except OSError as error:
            logger.debug("cannot remember what was seen in images: %s", error)


def _digest_of(stamps: Sequence[str | None]) -> str:
    # Another Pillow, another plugin or another limit may judge differently.
    rules = ("1", PIL.__version__, *known_formats(), str(MAX_PIXELS), str(MAX_ASPECT))
    return hashlib.sha256("\n".join((*rules, *(stamp or "" for stamp in stamps))).encode()).hexdigest()[:40]


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


@dataclass(frozen=True, kw_only=True)
class Inspector:
    """Who looks at the images, and what is remembered of it."""

    crew: Crew = field(default_factory=Crew)
    memory: FactsMemory = field(default_factory=partial(FactsMemory, None))

    def __call__(self, images: ImageColumn, rows: NDArray[np.int64]) -> Inspection:
        """Look at the images of `rows`, which are decoded as far as needed to know that they can be."""
        facts = list(self._facts(images, rows))
        return Inspection(
            digests=np.array([fact.digest for fact in facts], dtype=f"S{2 * DIGEST_BYTES}"),
            sizes=np.array([(fact.width, fact.height) for fact in facts], dtype=np.int32).reshape(-1, 2),
            # Objects, not NumPy's strings: those would give every row the room of the longest.
            kinds=np.array([sys.intern(fact.kind) for fact in facts], dtype=np.object_),
            problems=np.array([fact.problem for fact in facts], dtype=np.object_),
        )

    def _facts(self, images: ImageColumn, rows: NDArray[np.int64]) -> Iterator[ImageFacts]:
        """The facts of all rows; each process looks at a chunk of every round."""
        text = f"looking once at each of {len(rows):,} images, for broken ones and duplicates"
        crew = self.crew
        # Threads are enough: decoding and hashing are done outside Python's lock.
        with ThreadPoolExecutor(crew.num_threads) as pool, crew.display.counting(text, len(rows)) as count:
            for start in range(0, len(rows), _CHUNK * crew.world_size):
                crew.stop_if_asked()
                first = start + crew.rank * _CHUNK
                yield from crew.gather(self._look(images, rows[first : first + _CHUNK], pool))
                count(min(start + _CHUNK * crew.world_size, len(rows)))

    def _look(
        self, images: ImageColumn, rows: NDArray[np.int64], pool: ThreadPoolExecutor
    ) -> list[ImageFacts]:
        if not len(rows):
            return []
        stamps = images.stamps(rows)
        known = self.memory.recall(stamps)
        unknown = rows[[fact is None for fact in known]]
        if not len(unknown):
            return [fact for fact in known if fact is not None]
        seen = pool.map(partial(_look_at_value, images), images.values(unknown))
        facts = [fact or next(seen) for fact in known]
        self.memory.keep(stamps, facts)
        return facts


def _look_at_value(images: ImageColumn, value: Any) -> ImageFacts:
    return look_at(images, value.as_py())  # here, so that the bytes of few images are in memory at once


def _recalled(kept: tuple[str, int, int, str] | None) -> ImageFacts | None:
    if kept is None:
        return None
    digest, width, height, kind = kept
    return ImageFacts(digest.encode(), width, height, kind, "")


def _digest(data: bytes) -> bytes:
    # Hexadecimal, because NumPy's byte strings lose zeros at their end.
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest().encode() if data else b""
