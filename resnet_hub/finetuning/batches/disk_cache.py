"""Training images kept decoded and reduced in a folder: built once, mapped by every worker.

With `--image_cache` every training image is first reduced to a short side at which each random crop still has
more pixels than the network takes. The cache only remembers the result: an image that is not in it (no room
left, a damaged file) is reduced anew and gives the same pixels. So what a run computes does not depend on
what the folder holds.
"""

import hashlib
import json
import logging
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.batches.cache_folder import make_room, write_whole
from resnet_hub.finetuning.batches.sampler import Indices
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.images.decoding import ColorMode, DecodableImage, Pixels
from resnet_hub.images.preprocessing import resize_pixels

logger = logging.getLogger(__name__)

_SHARD = 32  # images in a file: as many large ones are in memory at once while it is built
_SUFFIX = ".pixels"
_CHECKSUM_BYTES = 4  # at the end of a file


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """How large images are made smaller before they are kept."""

    short_side: int
    """In pixels; images that are smaller stay as they are."""
    mode: ColorMode
    interpolation: str

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after the reduction."""
        scale = min(1.0, self.short_side / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def __call__(self, image: DecodableImage) -> Pixels:
        """The pixels, uint8 (height, width, channels)."""
        width, height = self.size(image.width, image.height)
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
    _open: dict[int, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    @property
    def labels(self) -> NDArray[Any]:
        """Those of the split."""
        return self.split.labels

    def encoded(self, indices: Indices) -> Iterator[DecodableImage]:
        """The images at these positions, one after the other."""
        return (self._image(int(index)) for index in indices)

    def _image(self, index: int) -> ReducedImage:
        width, height = (int(size) for size in self.split.seen.sizes[index])
        shard = self._mapped(index // _SHARD)
        if shard is None:
            (image,) = self.split.encoded(np.array([index]))
            return ReducedImage(width=width, height=height, reduced=self.reduction(image))
        sizes = self.split.seen.sizes[index - index % _SHARD : index + 1]
        shapes = [_shape(self.reduction, size) for size in sizes]
        start = sum(math.prod(shape) for shape in shapes[:-1])
        pixels = shard[start : start + math.prod(shapes[-1])].reshape(shapes[-1])
        return ReducedImage(width=width, height=height, reduced=pixels)

    def _mapped(self, number: int) -> NDArray[np.uint8] | None:
        if number not in self._open:
            path = self.shards[number]
            if path is None:
                return None
            try:
                # "c": torch wants memory that may be written; nothing is, and all workers share the pages.
                mapped = np.memmap(path, dtype=np.uint8, mode="c")
            except (OSError, ValueError):  # removed meanwhile, to make room for another run
                return None
            sizes = self.split.seen.sizes[number * _SHARD : (number + 1) * _SHARD]
            if (
                len(mapped)
                != sum(math.prod(_shape(self.reduction, size)) for size in sizes) + _CHECKSUM_BYTES
            ):
                return None
            self._open[number] = mapped
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        """A worker that is not forked maps the files itself; otherwise it would be sent their content."""
        return {**self.__dict__, "_open": {}}


def build_image_cache(
    split: Split, reduction: Reduction, folder: Path, *, limit_bytes: float, crew: Crew
) -> ReducedImages:
    """The images of a split with as many of them cached as fit; each process builds its share.

    On storage that all nodes share, a file that one process has built is found by the others; on storage of
    its own, each node builds all. A file is known by the content of its images, it appears whole or not at
    all, and one that is damaged is built again. Files of other runs are removed, the longest unused first,
    where there is no room beside them.

    Raises:
        ConfigError: the folder cannot be made.
        Whatever `crew.stop_if_asked` raises; what is built stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--image_cache {folder} cannot be made: {error.strerror}.") from error
    names = _shard_names(split, reduction, limit_bytes)
    our_bytes = sum(size for size, name in zip(_shard_bytes(split, reduction), names, strict=True) if name)
    wanted = [folder / name if name else None for name in names]
    if crew.rank == 0:
        ours = set(filter(None, names))
        make_room(folder, _SUFFIX, ours=ours, our_bytes=our_bytes, limit_bytes=limit_bytes)
    builder = _Builder(split=split, reduction=reduction, paths=wanted)
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
    paths: Sequence[Path | None]
    is_full: bool = False
    """The disk has refused a file; the images are then reduced on the spot."""

    def build(self, number: int, pool: ThreadPoolExecutor, *, check: bool) -> None:
        """Write a shard unless it is there, and, if `check`, undamaged."""
        path = self.paths[number] if number < len(self.paths) else None
        if path is None or self.is_full:
            return
        with suppress(OSError):
            if path.is_file() and (not check or _is_whole(path)):
                os.utime(path)  # what was used last is removed last
                return
        positions = np.arange(number * _SHARD, min((number + 1) * _SHARD, len(self.split)))
        images = list(pool.map(self.reduction, self.split.encoded(positions)))
        for position, pixels in zip(positions, images, strict=True):
            assert pixels.shape == _shape(self.reduction, self.split.seen.sizes[position])
        try:
            _write_shard(path, images)
        except OSError as error:
            logger.warning("The image cache cannot be written any further: %s", error)
            self.is_full = True


def _shape(reduction: Reduction, size: NDArray[np.int32]) -> tuple[int, int, int]:
    width, height = reduction.size(int(size[0]), int(size[1]))
    return height, width, 3 if reduction.mode == "RGB" else 1


def _shard_bytes(split: Split, reduction: Reduction) -> list[int]:
    """Bytes of the pixels of every shard, known from the sizes of the images."""
    each = [math.prod(_shape(reduction, size)) for size in split.seen.sizes]
    return [sum(each[start : start + _SHARD]) for start in range(0, len(each), _SHARD)]


def _shard_names(split: Split, reduction: Reduction, limit_bytes: float) -> list[str | None]:
    """For each shard the name of its file, a digest of what it holds; None beyond the limit."""
    rules = json.dumps(["1", PIL.__version__, torch.__version__, asdict(reduction)])
    used, names = 0, []
    for number, size in enumerate(_shard_bytes(split, reduction)):
        used += size
        digests = split.seen.digests[number * _SHARD : (number + 1) * _SHARD]
        key = hashlib.sha256(rules.encode() + digests.tobytes()).hexdigest()[:40]
        names.append(f"{key}{_SUFFIX}" if used <= limit_bytes else None)
    return names


def _write_shard(path: Path, images: Sequence[Pixels]) -> None:
    """Pixels of all images, then their checksum."""

    def write(file: BinaryIO) -> None:
        checksum = 0
        for pixels in images:
            file.write(pixels.data)
            checksum = zlib.crc32(pixels.data, checksum)
        file.write(checksum.to_bytes(_CHECKSUM_BYTES, "little"))

    write_whole(path, write)


def _is_whole(path: Path) -> bool:
    if path.stat().st_size <= _CHECKSUM_BYTES:
        return False
    data = memoryview(np.memmap(path, dtype=np.uint8, mode="r"))  # pyright: ignore[reportArgumentType]
    return zlib.crc32(data[:-_CHECKSUM_BYTES]) == int.from_bytes(data[-_CHECKSUM_BYTES:], "little")
