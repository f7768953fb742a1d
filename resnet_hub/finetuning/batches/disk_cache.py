"""Training images kept decoded and reduced in a folder: built once, read by every worker.

With `--image_cache` every training image is first reduced to a short side at which each random crop still has
more pixels than the network takes. The cache only remembers the result: an image that is not in it (no room
left, a damaged file) is reduced anew and gives the same pixels. So what a run computes does not depend on
what the folder holds.
"""

import hashlib
import json
import logging
import math
import mmap
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from resnet_hub.cache_store import CacheStore
from resnet_hub.files import check_can_hold_files
from resnet_hub.finetuning.batches.sampler import Indices
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.images.decoding import ColorMode, DecodableImage, Pixels
from resnet_hub.images.preprocessing import resize_pixels

try:
    import resource
except ImportError:  # Windows
    resource = None

logger = logging.getLogger(__name__)

_SHARD = 32  # images in a file: as many large ones are in memory at once while it is built
_CHECKSUM_BYTES = 4  # at the end of a file
_MOST_MAPPED = 16_384  # files in a process; Linux allows 65,530 mappings of any kind


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How large images are made smaller before they are kept."""

    short_side: int
    """In pixels; images that are smaller stay as they are."""
    mode: ColorMode
    interpolation: str

    @property
    def num_channels(self) -> int:
        """Of the pixels."""
        return 3 if self.mode == "RGB" else 1

    def sizes(self, full: NDArray[Any]) -> NDArray[np.int64]:
        """Width and height of images after the reduction, given those before, (images, 2)."""
        scale = np.minimum(1.0, self.short_side / full.min(axis=1, keepdims=True))
        return np.maximum(1, np.rint(full * scale)).astype(np.int64)

    def num_bytes(self, full: NDArray[Any]) -> NDArray[np.int64]:
        """Bytes of the pixels of images of these sizes, (images,)."""
        return self.sizes(full).prod(axis=1) * self.num_channels

    def __call__(self, image: DecodableImage) -> Pixels:
        """The pixels, uint8 (height, width, channels)."""
        ((width, height),) = self.sizes(np.array([[image.width, image.height]])).tolist()
        pixels = image.pixels(self.mode, at_least=(width, height))
        if pixels.shape[:2] == (height, width):
            return np.ascontiguousarray(pixels)
        resized = resize_pixels(pixels, height=height, width=width, interpolation=self.interpolation)
        return resized.permute(1, 2, 0).contiguous().numpy()


@dataclass(frozen=True, kw_only=True)
class ReducedImage:
    """An image of which a smaller version is at hand; random crops are still drawn from its full size."""

    width: int
    height: int
    reduced: Pixels

    def pixels(self, mode: ColorMode = "RGB", *, at_least: tuple[int, int] | None = None) -> Pixels:
        """The smaller version, uint8 (height, width, channels)."""
        return self.reduced

    def decode(self, mode: ColorMode = "RGB") -> Image.Image:
        """The smaller version as a PIL image."""
        return Image.fromarray(self.reduced.squeeze(axis=2) if self.reduced.shape[2] == 1 else self.reduced)


@dataclass(frozen=True, kw_only=True)
class ReducedImages:
    """The images of a split, reduced: from the cache where it has them, else on the spot."""

    split: Split
    reduction: Reduction
    shards: tuple[Path | None, ...]
    """The file of each _SHARD images; None where there is none."""
    _mapped: dict[int, mmap.mmap] = field(default_factory=dict, repr=False)
    _cut: set[int] = field(default_factory=set, repr=False)

    @property
    def labels(self) -> NDArray[Any]:
        """Those of the split."""
        return self.split.labels

    def encoded(self, indices: Indices) -> Iterator[DecodableImage]:
        """The images at these positions, one after the other."""
        return (self._image(int(index)) for index in indices)

    def _image(self, index: int) -> ReducedImage:
        width, height = (int(size) for size in self.split.seen.sizes[index])
        pixels = self._cached(index)
        if pixels is None:
            (image,) = self.split.encoded(np.array([index]))
            pixels = self.reduction(image)
        return ReducedImage(width=width, height=height, reduced=pixels)

    def _cached(self, index: int) -> Pixels | None:
        """The pixels from the file, if there is one and it is not cut short."""
        number = index // _SHARD
        path = self.shards[number]
        if path is None:
            return None
        width, height = self._sizes[index].tolist()
        shape = (height, width, self.reduction.num_channels)
        start, count = int(self._starts[index]), math.prod(shape)
        try:
            mapped = self._map(number, path)
            if mapped is None:
                pixels = np.fromfile(path, dtype=np.uint8, count=count, offset=start)
            elif mapped.size() < start + count:  # cut since it was mapped: what is not there is a bus error
                pixels = np.empty(0, np.uint8)
            else:
                pixels = np.frombuffer(mapped, np.uint8, count, start)
        except (OSError, ValueError):  # removed meanwhile, to make room for another run, or empty
            return None
        if pixels.size == count:
            return pixels.reshape(shape)
        if number not in self._cut:
            self._cut.add(number)
            logger.warning("%s was cut short while it was in use; its images are decoded each time.", path)
        return None

    def _map(self, number: int, path: Path) -> mmap.mmap | None:
        """The file in memory that all workers share; None where too many are already."""
        if number not in self._mapped and len(self._mapped) < _most_mapped():
            with path.open("rb") as file:
                # A copy on writing, of which there are none: torch wants memory that may be written.
                self._mapped[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._mapped.get(number)

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Width and height of each image as it is kept."""
        return self.reduction.sizes(self.split.seen.sizes)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where in its file each image begins, in bytes."""
        num_bytes = self.reduction.num_bytes(self.split.seen.sizes)
        starts = np.cumsum(num_bytes) - num_bytes
        return starts - starts[np.arange(len(starts)) // _SHARD * _SHARD]

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked maps the files itself; otherwise it would be sent their content."""
        fields = ("split", "reduction", "shards")
        return {name: self.__dict__[name] for name in fields} | {"_mapped": {}, "_cut": set()}


def _most_mapped() -> int:
    """How many files may stay mapped: each is an open file, and there are other uses for those.

    The rest is read, 5 % more slowly.
    """
    limit = 1024 if resource is None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return min(limit // 4, _MOST_MAPPED) if limit >= 0 else _MOST_MAPPED


def build_image_cache(
    split: Split, reduction: Reduction, folder: Path, *, limit_bytes: float, crew: Crew
) -> ReducedImages:
    """The images of a split with as many of them cached as fit; each process builds its share.

    On storage that all nodes share, a file that one process has built is found by the others; on storage of
    its own, each node builds all. A file is known by the content of its images, it appears whole or not at
    all, and one that is damaged is built again. Files of other runs are removed, the longest unused first,
    where there is no room beside them.

    Raises:
        ConfigError: the folder cannot be written to.
        Whatever `crew.stop_if_asked` raises; what is built stays.
    """
    check_can_hold_files(folder, flag="image_cache")
    store = CacheStore(folder, "pixels", limit_bytes=limit_bytes)
    sizes = _shard_sizes(store, split, reduction)
    fitting = np.cumsum(list(sizes.values())) <= limit_bytes
    wanted = [path if fits else None for path, fits in zip(sizes, fitting, strict=True)]
    if crew.rank == 0:
        store.make_room({path: sizes[path] for path in wanted if path is not None})
    builder = _Builder(split=split, reduction=reduction, store=store, paths=wanted)
    text = f"keeping {len(split):,} training images decoded in {folder}"
    num_shards = len(wanted)
    with ThreadPoolExecutor(crew.num_threads) as pool, crew.display.counting(text, len(split)) as count:
        # First its own share; then what others built is there already, or has to be built on this node too.
        rounds = -(-num_shards // crew.world_size)
        for turn in range(crew.world_size):
            share = (crew.rank + turn) % crew.world_size
            for place in range(rounds):
                crew.stop_if_asked()
                builder.build(place * crew.world_size + share, pool, check=turn == 0)
                if turn == 0:
                    count(min((place + 1) * crew.world_size * _SHARD, len(split)))
    crew.stop_if_asked()  # nobody goes on before everything is built
    found = tuple(path if path is not None and path.is_file() else None for path in wanted)
    missing = sum(path is None for path in found)
    if missing:
        crew.display.say(
            f"image cache: {folder} holds {num_shards - missing} of {num_shards} parts of the training "
            f"images (--image_cache_gb {limit_bytes / 1e9:g}); the others are decoded each time"
        )
    return ReducedImages(split=split, reduction=reduction, shards=found)


@dataclass(kw_only=True)
class _Builder:
    split: Split
    reduction: Reduction
    store: CacheStore
    paths: Sequence[Path | None]
    is_full: bool = False
    """The disk has refused a file; the images are then reduced on the spot."""

    def build(self, number: int, pool: ThreadPoolExecutor, *, check: bool) -> None:
        """Write a shard unless it is there, and, if `check`, undamaged."""
        path = self.paths[number] if number < len(self.paths) else None
        if path is None or self.is_full:
            return
        with suppress(OSError):
            if path.is_file() and (not check or _is_whole(path.read_bytes())):
                self.store.mark_used(path)
                return
        positions = np.arange(number * _SHARD, min((number + 1) * _SHARD, len(self.split)))
        images = list(pool.map(self.reduction, self.split.encoded(positions)))
        expected = self.reduction.num_bytes(self.split.seen.sizes[positions]).tolist()
        assert [pixels.nbytes for pixels in images] == expected
        try:
            _write_shard(self.store, path, images)
        except OSError as error:
            logger.warning("The image cache cannot be written any further: %s", error)
            self.is_full = True


def _shard_sizes(store: CacheStore, split: Split, reduction: Reduction) -> dict[Path, int]:
    """The file of each shard, called by a digest of what it holds, and its bytes."""
    rules = json.dumps(["2", PIL.__version__, torch.__version__, asdict(reduction)]).encode()
    sizes = {}
    for start in range(0, len(split), _SHARD):
        shard = slice(start, start + _SHARD)
        digest = hashlib.sha256(rules + split.seen.digests[shard].tobytes()).hexdigest()[:40]
        num_bytes = int(reduction.num_bytes(split.seen.sizes[shard]).sum())
        sizes[store.path(digest)] = num_bytes + _CHECKSUM_BYTES
    return sizes


def _write_shard(store: CacheStore, path: Path, images: Sequence[Pixels]) -> None:
    """Pixels of all images, then their checksum."""
    data = b"".join(pixels.data for pixels in images)
    store.write(path, data + zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, "little"))


def _is_whole(data: bytes) -> bool:
    pixels, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    return len(pixels) > 0 and zlib.crc32(pixels) == int.from_bytes(checksum, "little")
