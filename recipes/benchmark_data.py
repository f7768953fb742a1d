"""Images per second of the training pipeline beside torchvision's and timm's, on one core, in turns.

    python recipes/benchmark_data.py --width 500 --height 375
    python recipes/benchmark_data.py --width 4000 --height 3000 --images 16

All read the same JPEGs from a folder, draw the same kind of crop (8 to 100 % of the area), mirror half of
the images and give batches of 224x224 pixels. The other two end with normalised float32. Ours ends with uint8
that the device normalises; `and normalised` adds that normalisation on the same core. With `--image_cache`
the images were decoded and reduced before, which is not counted: it is done once in the life of a data set.
"""

import argparse
import io
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.data import create_loader
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from resnet_hub.finetuning.batches.augment import build_train_transform, short_side_to_keep
from resnet_hub.finetuning.batches.disk_cache import Reduction, build_image_cache
from resnet_hub.finetuning.batches.loader import TrainBatches
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.hyperrule import Situation, decide
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.images.preprocessing import Preprocessing

BATCH = 16
PREPROCESSING = Preprocessing(
    image_size=(224, 224),
    crop_fraction=0.875,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def make_photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG whose detail falls off with frequency as in photographs: noise of all scales."""
    generator = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128, dtype=np.int16)
    for octave in range(1, 11):
        size = (min(width, 2**octave), min(height, 2**octave))
        noise = generator.normal(128, 160 / 1.6**octave, (size[1], size[0], 3)).clip(0, 255).astype(np.uint8)
        pixels += np.asarray(
            Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR)
        ) - np.int16(128)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, format="JPEG", quality=90)
    return file.getvalue()


def make_folder(folder: Path, width: int, height: int, num_images: int) -> None:
    """Two class folders of photos."""
    for number in range(num_images):
        path = folder / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_photo(width, height, number))


def torchvision_pipeline(folder: Path) -> Callable[[], Iterator[Tensor]]:
    """The transforms of torchvision's references, in its usual loader."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(PREPROCESSING.mean, PREPROCESSING.std),
        ]
    )
    images = datasets.ImageFolder(str(folder), transform)
    loader = DataLoader(images, batch_size=BATCH, shuffle=True)
    return lambda: (batch for batch, _ in loader)


def timm_pipeline(folder: Path) -> Callable[[], Iterator[Tensor]]:
    """Timm's create_loader with the same crop and flip and nothing else."""
    loader = create_loader(
        datasets.ImageFolder(str(folder)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        use_prefetcher=False,
        color_jitter=0.0,
        interpolation="bilinear",
        num_workers=0,
        persistent_workers=False,
    )
    return lambda: (batch for batch, _ in loader)


def our_pipeline(folder: Path, *, cache: bool = False) -> Callable[[], Iterator[Tensor]]:
    """The training batches of a run with `--augmentation crop`, with or without `--image_cache`."""
    config = FinetuneConfig(train_dir=folder, augmentation="crop", validation_fraction=0.0, test_fraction=0.0)
    train = load_data(config).train
    settings = decide(config, Situation(num_train=len(train), network_width=512)).images
    short_side = short_side_to_keep(settings, PREPROCESSING)
    reduction = Reduction(short_side=short_side, mode="RGB", interpolation=PREPROCESSING.interpolation)
    batches = TrainBatches(
        build_image_cache(train, reduction, folder.parent / "cache", limit_bytes=1e11, crew=Crew())
        if cache
        else train,
        [build_train_transform(settings, PREPROCESSING)],
        EpochPlan(num_images=len(train), global_batch_size=BATCH, seed=0),
        options=LoaderOptions(),
    )
    epochs = itertools.count()
    return lambda: (batch.images for (batch,) in batches.epoch(next(epochs)))


def our_pipeline_and_normalisation(folder: Path) -> Callable[[], Iterator[Tensor]]:
    """The same, with the normalisation that the training loop does on the device."""
    epoch = our_pipeline(folder)
    return lambda: (PREPROCESSING.normalize(images) for images in epoch())


OTHERS = ("torchvision", "timm")
PIPELINES: dict[str, Callable[[Path], Callable[[], Iterator[Tensor]]]] = {
    "torchvision": torchvision_pipeline,
    "timm": timm_pipeline,
    "resnet_hub": our_pipeline,
    "and normalised": our_pipeline_and_normalisation,
    "--image_cache": partial(our_pipeline, cache=True),
}


def measure(folder: Path, num_images: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time an image, of each pipeline in each round; in a round each has its turn."""
    pipelines = {name: make(folder) for name, make in PIPELINES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for _ in range(rounds + 1):
        for name, epoch in pipelines.items():
            started = time.process_time()
            seen = sum(len(batch) for batch in epoch())  # timm leaves the last batch out if it is smaller
            seconds[name].append((time.process_time() - started) / seen)
    # The first round warms caches and is not counted.
    return {name: taken[1:] for name, taken in seconds.items()}


def main() -> None:
    """Print a line per pipeline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--images", type=int, default=96, help="a multiple of 16")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        make_folder(folder, args.width, args.height, args.images)
        size = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / args.images
        print(f"{args.images} JPEGs of {args.width}x{args.height}, {size / 1e3:.0f} kB each, one core")
        seconds = measure(folder, args.images, args.rounds)
    print(f"images per second, and times as fast as the others: median [quartiles] of {args.rounds} rounds")
    for pipeline, taken in seconds.items():
        print(f"{pipeline:<14} {1 / statistics.median(taken):8.1f}", end="")
        for other in OTHERS:
            ratios = [theirs / ours for theirs, ours in zip(seconds[other], taken, strict=True)]
            low, median, high = statistics.quantiles(ratios, n=4)
            print(f"   {other} x {median:.2f} [{low:.2f}, {high:.2f}]", end="")
        print()


if __name__ == "__main__":
    main()
