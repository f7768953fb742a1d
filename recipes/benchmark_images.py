"""JPEGs for benchmark.py: drawn signs (formula_images.py) on noise of all scales, in class folders."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from benchmark_data import make_photo
from formula_images import FormulaImages
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image

from resnet_hub.cores import available_cores

WIDTH, HEIGHT, SIGN = 500, 375, 288
MIRRORED = 0.5  # share of the signs that are seen from their other side: every loop mirrors images
# Numbers of the first images of each split: far apart, so that more training images change no others.
FIRST = {"train": 0, "validation": 2**20}

Pixels = NDArray[np.uint8]


def make_images(folder: Path, *, num_classes: int, num_images: Mapping[str, int], width: int) -> None:
    """Class folders of `train` and `validation`, a function of the arguments; kept if they are there.

    Args:
        folder: Where they go.
        num_classes: Signs, each a class.
        num_images: Of each split.
        width: In pixels; the height is three quarters of it.
    """
    wanted = {"classes": num_classes, **num_images, "width": width}
    made = folder / "made.json"
    if made.exists() and json.loads(made.read_text(encoding="utf-8")) == wanted:
        return
    if folder.exists():
        raise SystemExit(f"{folder} holds other images than are wanted now ({wanted}). Name another --data.")
    papers = [
        np.asarray(Image.open(io.BytesIO(make_photo(2 * WIDTH, 2 * HEIGHT, seed)))) for seed in range(4)
    ]
    signs = FormulaImages(num_categories=num_classes, image_size=SIGN, seed=2026)
    size = (width, width * HEIGHT // WIDTH)

    def make(images: list[tuple[str, int]]) -> None:
        for split, number in images:
            category = number % num_classes
            path = folder / split / f"sign{category:02d}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo = photo_of_sign(papers, signs, category, FIRST[split] + number)
            photo.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)

    images = [(split, number) for split in FIRST for number in range(num_images[split])]
    num_cores = available_cores()
    Parallel(n_jobs=num_cores)(delayed(make)(images[first::num_cores]) for first in range(num_cores))
    made.write_text(json.dumps(wanted), encoding="utf-8")


def photo_of_sign(papers: list[Pixels], signs: FormulaImages, category: int, instance: int) -> Image.Image:
    """A part of a paper with a sign near its middle, through which the paper is seen."""
    rng = np.random.default_rng((category, instance))
    top, left = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
    photo = papers[int(rng.integers(len(papers)))][top : top + HEIGHT, left : left + WIDTH].astype(np.float32)
    (sign,) = signs.batch(np.array([category]), np.array([instance]))
    margin = (WIDTH - SIGN) // 2
    top, left = int(rng.integers(HEIGHT - SIGN)), int(rng.integers(margin // 2, 3 * margin // 2))
    part = photo[top : top + SIGN, left : left + SIGN]
    sign = sign.transpose(1, 2, 0)
    if rng.random() < MIRRORED:
        sign = sign[:, ::-1]
    part += 0.7 * (sign - part)
    return Image.fromarray(photo.astype(np.uint8))
