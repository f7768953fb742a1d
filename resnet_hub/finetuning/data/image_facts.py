"""What one look at an image tells, and a memory of it on disk for images that have not changed since."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import PIL

from resnet_hub.finetuning.data.image_column import ImageColumn
from resnet_hub.images.decoding import MAX_ASPECT, MAX_PIXELS, BadImageError, known_formats, read_header

logger = logging.getLogger(__name__)

DIGEST_BYTES = 16


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


@dataclass(frozen=True)
class FactsMemory:
    """Facts of chunks of images in files of a folder; a chunk is known by the stamps of its images.

    What was wrong with an image is not kept: it may have been repaired, or its disk was away. Two processes
    may write the same chunk; a file appears whole or not at all.
    """

    folder: Path | None
    """None to remember nothing."""

    def recall(self, stamps: Sequence[str | None]) -> list[ImageFacts | None]:
        """The facts of each image of a chunk; None where they are not known."""
        nothing: list[ImageFacts | None] = [None] * len(stamps)
        if self.folder is None or not any(stamps):
            return nothing
        try:
            checksum, _, text = self._path(stamps).read_text(encoding="utf-8").partition("\n")
        except (OSError, UnicodeDecodeError):
            return nothing
        if checksum != hashlib.sha256(text.encode()).hexdigest():
            return nothing
        return [_facts(kept) if stamp else None for stamp, kept in zip(stamps, json.loads(text), strict=True)]

    def keep(self, stamps: Sequence[str | None], facts: Sequence[ImageFacts]) -> None:
        """Remember a chunk. A folder that cannot be written costs a later run the same look again."""
        if self.folder is None or not any(stamps):
            return
        kept = [
            (seen.digest.decode(), seen.width, seen.height, seen.kind) if stamp and not seen.problem else None
            for stamp, seen in zip(stamps, facts, strict=True)
        ]
        text = json.dumps(kept, separators=(",", ":"))
        path = self._path(stamps)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            logger.debug("cannot write %s: %s", path, error)
            with suppress(OSError):
                temporary.unlink()

    def _path(self, stamps: Sequence[str | None]) -> Path:
        assert self.folder is not None
        # Another Pillow, another plugin or another limit may judge differently.
        rules = ("1", PIL.__version__, *known_formats(), str(MAX_PIXELS), str(MAX_ASPECT))
        name = hashlib.sha256("\n".join((*rules, *(stamp or "" for stamp in stamps))).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.json"


def _facts(kept: tuple[str, int, int, str] | None) -> ImageFacts | None:
    if kept is None:
        return None
    digest, width, height, kind = kept
    return ImageFacts(digest.encode(), width, height, kind, "")


def _digest(data: bytes) -> bytes:
    # Hexadecimal, because NumPy's byte strings lose zeros at their end.
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest().encode() if data else b""
