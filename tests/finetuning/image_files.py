"""Images and data sets that the tests of the data side make for themselves."""

import io
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30, *, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth colours that differ from seed to seed and from corner to corner."""
    corners = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(corners).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """The image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, format=format, **options)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def table(labels: Sequence[object], feature: object, *, first_seed: int = 0) -> datasets.Dataset:
    """A data set of one image per label."""
    images = [{"bytes": encoded(picture(seed=first_seed + n)), "path": None} for n in range(len(labels))]
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    return datasets.Dataset.from_dict({"image": images, "label": list(labels)}, features=features)


def class_folders(folder: Path, counts: dict[str, int], *, first_seed: int = 0) -> Path:
    """A folder of JPEGs with a folder per class."""
    seed = first_seed
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{number}.jpg").write_bytes(encoded(picture(seed=seed), "JPEG"))
            seed += 1
    return folder
