"""Accuracy on digits from the weights in the package and from scratch, with few and with all training images.

    python recipes/benchmark_pretrained.py --output measured.json

A seed chooses training images, order and new weights. All have the same test images, and every training
image trains: there is no validation, so the last weights count. From scratch and `balanced` have the same
steps and rate, and all else by the rule of every run. (benchmark_quick.py compares `quick` with others.)
"""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from resnet_hub.finetuning import FinetuneConfig, finetune
from resnet_hub.finetuning.config.yaml_file import load_recipe

MODEL = "my_resnet20"
WAYS: dict[str, dict[str, Any]] = {
    "quick": load_recipe("quick"),
    "balanced": load_recipe("balanced"),
    "scratch": {"pretrained": False},
}


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--images", nargs="+", default=["5", "20", "all"], help="training images a class")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--image_size", type=int, default=16)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    accuracy: dict[str, dict[str, list[float]]] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for images in options.images:
        for way in options.ways:
            runs = [measure(way, images, seed, options) for seed in options.seeds]
            accuracy.setdefault(images, {})[way] = [run[0] for run in runs]
            seconds.setdefault(images, {})[way] = [run[1] for run in runs]
            print(
                f"{images:>4} a class  {way:<12} {mean(accuracy[images][way]):6.2f} % "
                f"[{min(accuracy[images][way]):.2f}, {max(accuracy[images][way]):.2f}]  "
                f"{mean(seconds[images][way]):.1f} s",
                flush=True,
            )
    record = {
        "image_size": options.image_size,
        "steps": options.steps,
        "learning_rate": options.learning_rate,
        "seeds": options.seeds,
        "num_test": len(digits_of("all", seed=0)["test"]),
        "accuracy_percent": accuracy,
        "train_seconds": seconds,
    }
    if options.output:
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def digits_of(images: str, *, seed: int) -> datasets.DatasetDict:
    """Digits with `images` training images a class, chosen by the seed; test images are always the same."""
    digits = load_digits()
    pool, test = train_test_split(
        np.arange(len(digits.target)), test_size=0.3, stratify=digits.target, random_state=0
    )
    if images != "all":
        pool, _ = train_test_split(
            pool, train_size=10 * int(images), stratify=digits.target[pool], random_state=seed
        )
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )

    def rows(chosen: NDArray[np.int64]) -> dict[str, list[Any]]:
        pixels = (digits.images[chosen] * 255 / 16).round().astype(np.uint8)
        return {"image": [Image.fromarray(each) for each in pixels], "label": digits.target[chosen].tolist()}

    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(rows(chosen), features=features)
            for name, chosen in (("train", pool), ("test", test))
        }
    )


def measure(way: str, images: str, seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Percent of the test images that are right, and the seconds of training."""
    splits = digits_of(images, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        splits.save_to_disk(f"{folder}/digits")
        config: dict[str, Any] = {
            "model_name_or_path": MODEL,
            "dataset_name": f"{folder}/digits",
            "validation_fraction": 0.0,
            "image_size": options.image_size,
            "horizontal_flip": 0.0,
            "seed": seed,
            "output_dir": Path(folder) / "run",
        }
        if way != "quick":
            config |= {"max_train_steps": options.steps, "learning_rate": options.learning_rate}
        report = finetune(FinetuneConfig(**config | WAYS[way]))
    assert report.test is not None
    return 100 * report.test.accuracy, report.train.seconds


if __name__ == "__main__":
    main()
