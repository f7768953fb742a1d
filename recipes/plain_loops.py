"""Fine-tuning as a user of timm or of transformers writes it: what benchmark.py measures resnet_hub beside.

    python recipes/plain_loops.py timm --train_dir a/train --validation_dir a/validation --output timm.json

Each loop has the defaults of its library and runs on a GPU if there is one; `--best_flags` adds what makes
it faster. Neither keeps checkpoints, measures more than accuracy or writes a report.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torch import Tensor, nn

import resnet_hub  # noqa: F401  registers the family in timm

Epoch = dict[str, float]


def main() -> None:
    """Train, and write for each epoch when it was over, what it took and how accurate it left the network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", choices=LOOPS)
    parser.add_argument("--train_dir", type=Path, required=True, help="class folders of images")
    parser.add_argument("--validation_dir", type=Path, required=True, help="the same classes")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--model", default="my_resnet18")
    parser.add_argument("--pretrained", action="store_true", help="start from pretrained weights")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, help="64 with timm, which has no default; 8 with Trainer")
    parser.add_argument("--learning_rate", type=float, help="5e-4 with timm, 5e-5 with Trainer, its default")
    parser.add_argument(
        "--workers", type=int, help="of the loader; 1 with timm and 0 with Trainer, their defaults"
    )
    parser.add_argument(
        "--best_flags", action="store_true", help="bf16, channels_last, crops and flips alone"
    )
    options = parser.parse_args()
    epochs = LOOPS[options.library](options)
    options.output.write_text(json.dumps({"epochs": epochs}), encoding="utf-8")


def train_with_timm(options: argparse.Namespace) -> list[Epoch]:
    """The loop of timm's train.py, without what it is not asked for."""
    random_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    datasets = {
        "train": create_dataset("", root=str(options.train_dir), is_training=True),
        "validation": create_dataset("", root=str(options.validation_dir), is_training=False),
    }
    num_classes = len(datasets["train"].reader.class_to_idx)
    model = timm.create_model(options.model, pretrained=options.pretrained, num_classes=num_classes)
    model = model.to(device)
    if options.best_flags:
        model = model.to(memory_format=torch.channels_last)
    config = resolve_data_config({"input_size": (3, options.image_size, options.image_size)}, model=model)
    shared: dict[str, Any] = {
        "input_size": config["input_size"],
        "batch_size": options.batch_size or 64,
        "interpolation": config["interpolation"],
        "mean": config["mean"],
        "std": config["std"],
        "crop_pct": config["crop_pct"],
        "device": device,
    }
    if options.workers is not None:
        shared |= {"num_workers": options.workers, "persistent_workers": options.workers > 0}
    faster = {"color_jitter": 0.0} if options.best_flags else {}
    train = create_loader(datasets["train"], is_training=True, **shared, **faster)
    validation = create_loader(datasets["validation"], is_training=False, **shared)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=options.learning_rate or 5e-4, weight_decay=0.05)
    schedule, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=options.epochs)
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(images: Tensor) -> Tensor:
        if options.best_flags:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=options.best_flags):
            return model(images)

    def train_epoch(epoch: int) -> None:
        model.train()
        for images, labels in train:
            loss = loss_function(forward(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step(epoch + 1)

    @torch.inference_mode()
    def validate() -> float:
        model.eval()
        right = sum(int((forward(images).argmax(dim=1) == labels).sum()) for images, labels in validation)
        return right / len(datasets["validation"])

    return [timed_epoch(train_epoch, validate, epoch) for epoch in range(options.epochs)]


def timed_epoch(train_epoch: Callable[[int], None], validate: Callable[[], float], epoch: int) -> Epoch:
    """Train and validate, with the seconds of training, the accuracy, and the time at the end."""
    started = time.monotonic()
    train_epoch(epoch)
    seconds = time.monotonic() - started
    return {"train_seconds": seconds, "accuracy": validate(), "time": time.time()}


def train_with_transformers(options: argparse.Namespace) -> list[Epoch]:
    """Trainer as the image-classification example of transformers uses it, with its transforms."""
    # Slow to import, and only here.
    from datasets import load_dataset  # noqa: PLC0415
    from torchvision import transforms as T  # noqa: PLC0415
    from transformers import Trainer, TrainingArguments, set_seed  # noqa: PLC0415

    set_seed(options.seed)
    files = {"train": f"{options.train_dir}/**", "validation": f"{options.validation_dir}/**"}
    data = load_dataset("imagefolder", data_files=files)
    model, config = timm_model_for_transformers(options, data["train"].features["label"].num_classes)
    size = options.image_size
    end = [T.ToTensor(), T.Normalize(config["mean"], config["std"])]
    transforms = {
        "train": T.Compose([T.RandomResizedCrop(size), T.RandomHorizontalFlip(), *end]),
        "validation": T.Compose([T.Resize(size), T.CenterCrop(size), *end]),
    }
    for split, transform in transforms.items():
        data[split].set_transform(
            lambda rows, transform=transform: {
                "pixel_values": [transform(image.convert("RGB")) for image in rows["image"]],
                "label": rows["label"],
            }
        )
    best = (
        {"bf16": True, "dataloader_persistent_workers": bool(options.workers)} if options.best_flags else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            num_train_epochs=options.epochs,
            eval_strategy="epoch",
            save_strategy="no",
            remove_unused_columns=False,
            seed=options.seed,
            disable_tqdm=True,
            report_to="none",
            per_device_train_batch_size=options.batch_size or 8,
            per_device_eval_batch_size=options.batch_size or 8,
            learning_rate=options.learning_rate or 5e-5,
            dataloader_num_workers=options.workers or 0,
            **best,
        )
        clock = epoch_clock()
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data["train"],
            eval_dataset=data["validation"],
            data_collator=lambda rows: {
                "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
                "labels": torch.tensor([row["label"] for row in rows]),
            },
            compute_metrics=lambda found: {
                "accuracy": float(np.mean(found.predictions.argmax(axis=1) == found.label_ids))
            },
            callbacks=[clock],
        )
        trainer.train()
    return clock.epochs


def timm_model_for_transformers(
    options: argparse.Namespace, num_classes: int
) -> tuple[nn.Module, dict[str, Any]]:
    """The network in transformers' wrapper for timm, with the same first weights; and its configuration."""
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification  # noqa: PLC0415

    start = timm.create_model(options.model, pretrained=options.pretrained, num_classes=num_classes)
    config = TimmWrapperConfig(architecture=options.model, num_labels=num_classes)
    model = TimmWrapperForImageClassification(config)
    model.timm_model.load_state_dict(start.state_dict())
    if options.best_flags:  # Trainer has no flag for it; it is one line
        model = model.to(memory_format=torch.channels_last)
    return model, resolve_data_config({}, model=start)


def epoch_clock() -> Any:
    """A callback of Trainer that keeps what `timed_epoch` gives."""
    from transformers import TrainerCallback  # noqa: PLC0415

    class EpochClock(TrainerCallback):
        def __init__(self) -> None:
            self.epochs: list[Epoch] = []
            self._started = self._seconds = 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            self._started = time.monotonic()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            self._seconds = time.monotonic() - self._started

        def on_evaluate(self, *_: Any, metrics: dict[str, float], **__: Any) -> None:
            self.epochs.append(
                {"train_seconds": self._seconds, "accuracy": metrics["eval_accuracy"], "time": time.time()}
            )

    return EpochClock()


LOOPS = {"timm": train_with_timm, "transformers": train_with_transformers}

if __name__ == "__main__":
    main()
