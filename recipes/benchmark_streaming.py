"""Memory and images per second over a streamed epoch, beside the loader that has the data set on disk.

    python recipes/benchmark_streaming.py --images 4000 --times 4

Parquet files of JPEGs are made, as a data set of the Hub has them, once of so many images and once of several
times as many. Each measurement is a process of its own, so that peaks do not add up, and they take turns. The
peak is that of the processes' own memory (RssAnon): pages of files that the system maps and may drop at any
time are not counted, neither for the stream nor for the loader beside it. `opened` is the memory before the
first batch. Batches are decoded, cropped to 224x224 pixels and thrown away.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import datasets
import torch
from benchmark_data import PREPROCESSING, make_photo

from resnet_hub.finetuning.batches.augment import build_train_transform
from resnet_hub.finetuning.batches.loader import TrainBatches
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.hyperrule import Situation, decide
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data

BATCH = 32
DIFFERENT = 200  # photos that are made; each is written many times, as nothing looks at whether they differ
MEGABYTE = 1e6


def make_files(folder: Path, num_images: int, rows_per_file: int) -> None:
    """Parquet files of photos of 500x375 pixels and two classes."""
    photos = [make_photo(500, 375, seed) for seed in range(DIFFERENT)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, num_images, rows_per_file)):
        rows = range(start, min(start + rows_per_file, num_images))
        # Bytes behind the end of a JPEG are not read, and keep the files from being all of one kind of page.
        images = [
            {"bytes": photos[row % DIFFERENT] + row.to_bytes(4, "little"), "path": None} for row in rows
        ]
        table = datasets.Dataset.from_dict(
            {"image": images, "label": [r % 2 for r in rows]}, features=features
        )
        table.to_parquet(folder / f"train-{number:05d}.parquet")


def own_memory() -> float:
    """Bytes of this process that are not pages of files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * float(status.split("RssAnon:")[1].split()[0])


def measure(folder: Path, shuffle_buffer: int, *, streaming: bool) -> dict[str, float]:
    """Peak of memory and images per second of an epoch in this process."""
    peak = [0.0]
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.01):
            peak[0] = max(peak[0], own_memory())

    config = FinetuneConfig(
        dataset_name=str(folder),
        streaming=streaming,
        augmentation="crop",
        validation_fraction=0.0,
        test_fraction=0.0,
        shuffle_buffer=shuffle_buffer if streaming else None,
    )
    data = load_data(config)
    settings = decide(config, Situation(num_train=len(data.train), network_width=512))
    train = data.in_order_of(settings.data).train
    batches = TrainBatches(
        train,
        [build_train_transform(settings.images, PREPROCESSING)],
        EpochPlan(num_images=len(train), global_batch_size=BATCH, seed=0),
        options=LoaderOptions(),
    )
    opened = own_memory()
    threading.Thread(target=watch, daemon=True).start()
    started = time.monotonic()
    seen = sum(len(batch.labels) for (batch,) in batches.epoch(0))
    seconds = time.monotonic() - started
    is_over.set()
    assert seen == len(train)
    return {"opened": opened, "peak": max(peak[0], own_memory()), "images_per_second": seen / seconds}


def measure_in_a_process(folder: Path, cache: Path, arguments: list[str]) -> dict[str, float]:
    """What `measure` returns, in a new process."""
    command = [sys.executable, __file__, "--measure", str(folder), *arguments]
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a line for each size and way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--times", type=int, default=4, help="how much larger the second data set is")
    parser.add_argument("--shuffle_buffer", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--measure",
        type=Path,
        help="measure one epoch of this folder, as the script does in a process of its own",
    )
    parser.add_argument("--streaming", action="store_true", help="with --measure: stream it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    if args.measure:
        print(json.dumps(measure(args.measure, args.shuffle_buffer, streaming=args.streaming)))
        return
    with tempfile.TemporaryDirectory() as name:
        folders = {count: Path(name) / str(count) for count in (args.images, args.times * args.images)}
        for count, folder in folders.items():
            make_files(folder, count, rows_per_file=500)
        ways = {"streamed": ["--streaming"], "on disk": []}
        found: dict[tuple[int, str], list[dict[str, float]]] = {}
        for _ in range(args.rounds):
            for count, folder in folders.items():
                for way, flags in ways.items():
                    asked = [*flags, "--shuffle_buffer", str(args.shuffle_buffer)]
                    found.setdefault((count, way), []).append(
                        measure_in_a_process(folder, Path(name) / "cache", asked)
                    )
        for (count, way), rounds in found.items():
            size = sum(path.stat().st_size for path in folders[count].iterdir()) / MEGABYTE
            opened, peak, rate = (
                statistics.median(r[key] for r in rounds) for key in ("opened", "peak", "images_per_second")
            )
            print(
                f"{count:>7,} images, {size:>6,.0f} MB, {way:<8}  opened {opened / MEGABYTE:5.0f} MB"
                f"   peak {peak / MEGABYTE:5.0f} MB   {rate:6.1f} images/s"
            )


if __name__ == "__main__":
    main()
