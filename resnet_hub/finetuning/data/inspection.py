"""A look at every image before training: is it readable, how large is it, does it occur twice?

Each image is read and decoded once, at the lowest resolution, by all processes of the run on all their cores.
After that no image can stop a run, and every process knows the same ones to leave out. What has been seen is
remembered, so that a run that goes on does not look again at images that have not changed.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.finetuning.data.image_facts import DIGEST_BYTES, FactsMemory, ImageFacts, look_at
from resnet_hub.finetuning.machine.ranks import Crew

_CHUNK = 512  # images between two moments at which a run can be stopped; a few seconds for large ones


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
