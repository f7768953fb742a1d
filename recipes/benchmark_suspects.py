"""How many labels that were flipped on purpose a look at the labels finds, beside looking in a random order.

    python recipes/benchmark_suspects.py                          # the digits, weights of the package
    python recipes/benchmark_suspects.py --data FOLDER --model MODEL_FOLDER --image_size 160

A share of the training labels becomes another class, drawn evenly. Of as many images as were flipped, the
strongest suspects first, the share that was flipped is printed for each seed, beside that of a random order.
"""

import argparse
import json
from dataclasses import replace
from statistics import mean
from time import perf_counter

import numpy as np
from torch import Tensor

from resnet_hub.finetuning import FinetuneConfig
from resnet_hub.finetuning.machine.preemption import PreemptionWatch
from resnet_hub.finetuning.prepare import prepare
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.features import train_features
from resnet_hub.finetuning.training.suspects import find_suspects


def main() -> None:
    """Print a JSON object per seed, and one with the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="folder or name of a data set")
    parser.add_argument("--model", default="my_resnet20.formula_signs500")
    parser.add_argument("--image_size", type=int, default=16)
    parser.add_argument("--flipped", type=float, default=0.05, help="share of the labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    with PreemptionWatch() as watch:
        run = prepare(
            FinetuneConfig(
                dataset_name=options.data,
                model_name_or_path=options.model,
                image_size=options.image_size,
                fit_fc_first=True,
                num_train_epochs=0,
            ),
            watch,
        )
    features = train_features(run, run.model)
    found = [measure(run, features, seed, options.flipped) for seed in options.seeds]
    for record in found:
        print(json.dumps(record))
    means = {name: round(mean(record[name] for record in found), 4) for name in ("right", "random_order")}
    print(json.dumps({"mean": means, "seeds": options.seeds}))


def measure(run: Run, features: Tensor, seed: int, share: float) -> dict[str, float]:
    """Flip some labels and look for them."""
    generator = np.random.default_rng(seed)
    split, names = run.data.mapped_train, run.data.class_names
    is_flipped = generator.random(len(split)) < share
    moved = (split.labels + generator.integers(1, len(names), len(split))) % len(names)
    labels = np.where(is_flipped, moved, split.labels)
    started = perf_counter()
    suspects = find_suspects(features, replace(split, labels=labels), names, seed=seed)
    seconds = perf_counter() - started
    first = [suspect.place for suspect in suspects[: is_flipped.sum()]]
    return {
        "seed": seed,
        "images": len(split),
        "flipped": int(is_flipped.sum()),
        "suspects": len(suspects),
        "right": round(float(is_flipped[first].mean()), 4),  # share of the suspects that were flipped
        "found": round(float(is_flipped[first].sum() / is_flipped.sum()), 4),  # share of the flipped
        "random_order": round(float(is_flipped.mean()), 4),
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
