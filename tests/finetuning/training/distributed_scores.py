"""Scores splits of several sizes on one process and on several, to be compared.

`python distributed_scores.py FOLDER` forks the processes from one Python; they meet at a file in the folder,
where the scores of each are written too.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from resnet_hub.finetuning.batches.augment import EvaluationTransform
from resnet_hub.finetuning.batches.loader import ViewBatches
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.engine.forward import compute_split
from resnet_hub.finetuning.machine.machine import start_machine
from resnet_hub.finetuning.report.metrics import score_predictions
from resnet_hub.images.preprocessing import Preprocessing

SIZES = (1, 3, 7, 8, 9, 97)
BATCH_SIZE = 4
PREPROCESSING = Preprocessing(
    image_size=(8, 8),
    crop_fraction=1.0,
    crop_mode="center",
    interpolation="bilinear",
    mean=(0.5,),
    std=(0.5,),
)


def compute(images: Tensor) -> Tensor:
    """Logits of each image by itself, so that they do not depend on which others are in the batch."""
    weights = torch.linspace(-1, 1, 640).reshape(64, 10)
    return torch.stack([image.reshape(64) @ weights for image in images])


def scores(config: FinetuneConfig) -> dict[str, dict]:
    machine = start_machine(config)
    test = load_data(config).test
    assert test is not None
    found = {}
    for size in SIZES:
        split = test.take(np.arange(size), name="test", how="the first")
        logits = compute_split(
            compute,
            ViewBatches(
                split,
                EvaluationTransform(PREPROCESSING),
                batch_size=BATCH_SIZE,
                options=LoaderOptions(rank=machine.rank, world_size=machine.world_size),
            ),
            num_outputs=10,
            num_images=size,
            batch_size=BATCH_SIZE,
            preprocessing=PREPROCESSING,
            machine=machine,
            between_batches=machine.accelerator.wait_for_everyone,
        )
        score = score_predictions(logits, torch.as_tensor(split.labels), tuple("0123456789"))
        found[str(size)] = {"accuracy": score.accuracy, "loss": score.loss, "macro_f1": score.macro_f1}
        found[str(size)]["num_images"] = score.num_images
    return found


def fork(rank: int, world_size: int, folder: Path) -> int:
    child = os.fork()
    if child:
        return child
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if world_size > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size)}
        os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world_size)}
        meeting = f"file://{folder / f'meeting-{world_size}'}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    found = scores(FinetuneConfig(dataset_name="digits", mixed_precision="no"))
    (folder / f"{world_size}-{rank}.json").write_text(json.dumps(found))
    os._exit(0)


if __name__ == "__main__":
    children = [fork(rank, size, Path(sys.argv[1])) for size in (1, 2, 3) for rank in range(size)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(codes, key=abs))
