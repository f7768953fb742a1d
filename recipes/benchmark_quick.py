"""`--recipe quick` beside a new `fc` trained for 30 epochs through the frozen network: accuracy and seconds.

    python recipes/benchmark_quick.py --output measured.json

The peer is the loop that tutorials show: every epoch all training images go through the frozen backbone,
BatchNorm in evaluation mode, and SGD with momentum or AdamW trains `fc`, the rate falling along a cosine. It
is given every advantage: the precision, memory format and threads of `quick`, images decoded beforehand, a
time without its validation, and, of all rates below with and without augmentation, the best on validation in
each split, at its best epoch. Images, splits and preprocessing are the same.

Tasks: `digits` (16 px) and `signs`, 20 classes that formula_images.py makes and the packaged weights have
not seen (32 px), both with `my_resnet20` as it comes in the package; `large`, signs of 224 px and
`my_resnet18` with random weights, for the time at this size only.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import datasets
import numpy as np
import timm
import torch
from formula_images import FormulaImages
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchvision.transforms import v2

import resnet_hub
from resnet_hub.errors import RunError
from resnet_hub.finetuning import FinetuneConfig, finetune
from resnet_hub.finetuning.config.options import MachineOptions
from resnet_hub.finetuning.machine.machine import start_machine
from resnet_hub.images.preprocessing import Preprocessing

EPOCHS, BATCH = 30, 64
RATES = {"SGD": (0.01, 0.03, 0.1, 0.3, 1.0), "AdamW": (1e-3, 3e-3, 1e-2, 3e-2)}
AUGMENTED = (False, True)
OPTIMIZERS: dict[str, Callable[[Any, float], torch.optim.Optimizer]] = {
    "SGD": lambda weights, rate: torch.optim.SGD(weights, lr=rate, momentum=0.9, nesterov=True),
    "AdamW": lambda weights, rate: torch.optim.AdamW(weights, lr=rate, weight_decay=0.01),
}
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images to classify, and the network whose features are used."""

    model: str
    image_size: int
    num_classes: int


TASKS = {
    "digits": Task(model="my_resnet20", image_size=16, num_classes=10),
    "signs": Task(model="my_resnet20", image_size=32, num_classes=20),
    "large": Task(model="my_resnet18", image_size=224, num_classes=4),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way to fit a classifier on one split."""

    validation: float
    """Accuracy in percent."""
    validation_loss: float
    test: float
    seconds: float


def main() -> None:
    """Measure, print tables, write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    parser.add_argument("--task", choices=TASKS, default="digits")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--views", type=int, default=1, help="--feature_views of quick")
    parser.add_argument("--timing", action="store_true", help="one rate, without augmentation: for seconds")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    task = TASKS[options.task]
    with tempfile.TemporaryDirectory() as folder:
        model = str(_backbone(task, Path(folder)))
        rounds = [_round(task, model, seed, Path(folder) / str(seed), options) for seed in options.seeds]
    _print(rounds)
    if options.output:
        record = {"task": options.task, "views": options.views, "seeds": options.seeds, "rounds": rounds}
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _round(
    task: Task, model: str, seed: int, folder: Path, options: argparse.Namespace
) -> dict[str, Measured]:
    """What each way reaches on the splits of a seed; of the peers the best on validation."""
    splits = make_splits(options.task, seed)
    splits.save_to_disk(folder / "data")
    found = {"quick": measure_quick(task, model, seed, folder, options.views)}
    for name, rates in RATES.items():
        choices = [(rates[len(rates) // 2], False)] if options.timing else product(rates, AUGMENTED)
        tried = [
            measure_peer(task, model, splits, seed, name, rate=rate, is_augmented=is_augmented)
            for rate, is_augmented in choices
        ]
        found[name] = max(tried, key=lambda each: (each.validation, -each.validation_loss))
    text = "  ".join(f"{name} {each.test:6.2f} % {each.seconds:6.2f} s" for name, each in found.items())
    print(f"seed {seed}: {text}", flush=True)
    return found


def measure_quick(task: Task, model: str, seed: int, folder: Path, views: int) -> Measured:
    """`quick`: its seconds are those of features, fit and validation."""
    report = finetune(
        FinetuneConfig(
            model_name_or_path=model,
            dataset_name=str(folder / "data"),
            image_size=task.image_size,
            horizontal_flip=0.0,
            fit_fc_first=True,
            num_train_epochs=0,
            feature_views=views,
            seed=seed,
            output_dir=folder / f"run-{views}",
        )
    )
    assert report.validation is not None
    assert report.test is not None
    return Measured(
        validation=100 * report.validation.accuracy,
        validation_loss=report.validation.loss,
        test=100 * report.test.accuracy,
        seconds=report.train.seconds,
    )


def measure_peer(
    task: Task,
    model: str,
    splits: datasets.DatasetDict,
    seed: int,
    optimizer_name: str,
    *,
    rate: float,
    is_augmented: bool,
) -> Measured:
    """A new `fc` trained in epochs through the frozen network; its seconds are those of training alone."""
    machine = start_machine(MachineOptions())  # the threads and the precision that quick has
    autocast = machine.accelerator.autocast
    torch.manual_seed(seed)
    network: Any = resnet_hub.load(model) if "/" in model else timm.create_model(model, pretrained=True)
    network.reset_classifier(task.num_classes)
    network = network.eval().to(memory_format=torch.channels_last)
    preprocessing = Preprocessing.of_model(network).at_size(task.image_size)
    photos, labels = _decoded(splits, preprocessing)
    augment = _augmentation(preprocessing) if is_augmented else preprocessing

    def features(images: list[Tensor]) -> Tensor:
        inputs = preprocessing.normalize(torch.stack(images)).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast():
            return network.forward_head(network.forward_features(inputs), pre_logits=True).float()

    seen = {
        name: torch.cat([features([preprocessing(photo) for photo in part]) for part in _parts(photos[name])])
        for name in ("validation", "test")
    }
    optimizer = OPTIMIZERS[optimizer_name](network.fc.parameters(), rate)
    steps = EPOCHS * -(-len(photos["train"]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, seconds = (-1.0, float("inf"), -1.0), 0.0
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for chosen in torch.randperm(len(photos["train"])).split(BATCH):
            inputs = features([augment(photos["train"][index]) for index in chosen.tolist()])
            nn.functional.cross_entropy(network.fc(inputs), labels["train"][chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        seconds += time.perf_counter() - started
        best = max(best, _scores(network.fc, seen, labels), key=lambda each: (each[0], -each[1]))
    return Measured(validation=best[0], validation_loss=best[1], test=best[2], seconds=seconds)


@torch.no_grad()
def _scores(fc: nn.Module, seen: dict[str, Tensor], labels: dict[str, Tensor]) -> tuple[float, float, float]:
    """Accuracy on validation in percent, loss there, and accuracy on test."""
    logits = {name: fc(values) for name, values in seen.items()}
    right = {name: 100 * (logits[name].argmax(1) == labels[name]).float().mean().item() for name in seen}
    loss = nn.functional.cross_entropy(logits["validation"], labels["validation"]).item()
    return right["validation"], loss, right["test"]


def make_splits(task: str, seed: int) -> datasets.DatasetDict:
    """Images and labels, 70 % for training, 15 % each for validation and test; which, the seed decides."""
    if task == "digits":
        digits = load_digits()
        pixels = list((digits.images * 255 / 16).round().astype(np.uint8))
        labels = digits.target
    else:
        each = {"signs": 100, "large": 48}[task]
        size, num_classes = TASKS[task].image_size, TASKS[task].num_classes
        labels = np.repeat(np.arange(num_classes), each)
        instances = np.tile(np.arange(each), num_classes)
        signs = FormulaImages(num_categories=num_classes, image_size=size, seed=1000 + seed)
        pixels = [
            picture.transpose(1, 2, 0)
            for places in np.array_split(np.arange(len(labels)), -(-len(labels) // 64))
            for picture in signs.batch(labels[places], instances[places])
        ]
    rest, test = train_test_split(np.arange(len(labels)), test_size=0.15, stratify=labels, random_state=seed)
    train, validation = train_test_split(rest, test_size=len(test), stratify=labels[rest], random_state=seed)
    names = [str(number) for number in range(int(labels.max()) + 1)]
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})

    def rows(chosen: Any) -> dict[str, list[Any]]:
        pictures = [Image.fromarray(pixels[index]) for index in chosen]
        return {"image": pictures, "label": labels[chosen].tolist()}

    parts = dict(zip(SPLITS, (train, validation, test), strict=True))
    return datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(rows(chosen), columns) for name, chosen in parts.items()}
    )


def _backbone(task: Task, folder: Path) -> str | Path:
    """The name of the pretrained network; for a variant without weights a folder with random ones."""
    if task.model == "my_resnet20":
        return task.model
    torch.manual_seed(0)
    network = timm.create_model(task.model, num_classes=task.num_classes)
    names = [str(number) for number in range(task.num_classes)]
    return resnet_hub.save_folder(network, folder / "backbone", class_names=names)


def _decoded(
    splits: datasets.DatasetDict, preprocessing: Preprocessing
) -> tuple[dict[str, list[Image.Image]], dict[str, Tensor]]:
    photos = {name: [photo.convert(preprocessing.mode) for photo in splits[name]["image"]] for name in SPLITS}
    return photos, {name: torch.tensor(splits[name]["label"][:]) for name in SPLITS}


def _augmentation(preprocessing: Preprocessing) -> Callable[[Image.Image], Tensor]:
    """Small images are padded and cropped, larger ones cropped and resized."""
    size = preprocessing.image_size[0]
    if size <= 64:
        return v2.Compose([preprocessing, v2.RandomCrop(size, padding=size // 8, fill=127)])
    return v2.Compose([v2.RandomResizedCrop(size, scale=(0.35, 1.0)), v2.PILToTensor()])


def _parts(photos: list[Image.Image]) -> Iterator[list[Image.Image]]:
    for start in range(0, len(photos), BATCH):
        yield photos[start : start + BATCH]


def _print(rounds: list[dict[str, Measured]]) -> None:
    for name in rounds[0]:
        ratios = [each[name].seconds / each["quick"].seconds for each in rounds]
        low, middle, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        tests = [each[name].test for each in rounds]
        print(
            f"{name:<6} test {mean(tests):6.2f} % [{min(tests):.2f}, {max(tests):.2f}]  "
            f"{mean(each[name].seconds for each in rounds):7.2f} s, times as long as quick "
            f"{middle:.1f} [{low:.1f}, {high:.1f}]"
        )


if __name__ == "__main__":
    try:
        main()
    except RunError as error:
        raise SystemExit(f"error: {error}") from error
