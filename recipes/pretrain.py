"""Train `my_resnet20` on images that a formula makes; the weights in `resnet_hub/weights/` are from here.

    python recipes/pretrain.py --output my_resnet20.safetensors

No data is read: formula_images.py makes every image from its class, its number and the seed. The weights are
a function of the options, to the bit, on processors with the same instructions and with the same release of
torch; there is one thread. An interrupted run goes on with the same command.
"""

import argparse
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from formula_images import FormulaImages
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import resnet_hub  # noqa: F401  registers the family
from resnet_hub.files import atomic_file

MEAN = STD = 0.5  # of every channel: the formula has no favourite colour
HELD_OUT = 2**40  # numbers of the images that are for testing start here
IMAGES_PER_CATEGORY_TESTED = 20
OPTIMIZER_STATE = ("exp_avg", "exp_avg_sq", "step")


def main(arguments: list[str] | None = None) -> None:
    """Train, test on images that were not trained on, write the weights."""
    options = parse_options(arguments)
    torch.set_num_threads(1)  # sums are then always added in the same order
    makers = {
        size: FormulaImages(num_categories=options.categories, image_size=size, seed=options.seed)
        for size in (options.image_size, options.image_size // 2)
    }
    seconds, model = train(options, makers)
    accuracy = {size: test(model, images) for size, images in makers.items()}
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    # One entry: the order of several is not the same each time.
    save_file(tensors, options.output, metadata={"made_by": json.dumps(settings(options))})
    checkpoint_of(options).unlink(missing_ok=True)
    record = {
        "options": settings(options),
        "accuracy_percent": accuracy,
        "seconds": seconds,
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "sha256": hashlib.sha256(options.output.read_bytes()).hexdigest(),
    }
    print(json.dumps(record, indent=2))


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Options of the run; the defaults made the weights of the package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--model", default="my_resnet20")
    parser.add_argument("--categories", type=int, default=500)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument(
        "--small_share", type=float, default=0.5,
        help="share of the steps, from the first, with images of half the size; then it is every second",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="the highest, of AdamW")
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint_steps", type=int, default=500, help="steps between checkpoints")
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what the weights become."""
    return {k: v for k, v in vars(options).items() if k not in ("output", "checkpoint_steps")}


def train(options: argparse.Namespace, makers: dict[int, FormulaImages]) -> tuple[float, nn.Module]:
    """Seconds of training, those before an interruption too, and the network."""
    torch.manual_seed(options.seed)
    model = timm.create_model(options.model, num_classes=options.categories)
    model = model.train().to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    first_step, seconds = restore(options, model, optimizer)
    started, average = time.monotonic() - seconds, math.nan
    for step in range(first_step, options.steps):
        inputs, categories = batch_of_step(options, makers, step)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * share_of_rate(step / options.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.precision == "bf16"):
            scores = model(network_input(inputs))
        loss = nn.functional.cross_entropy(scores.float(), categories)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        seconds = time.monotonic() - started
        if (step + 1) % 50 == 0:
            print(f"step {step + 1}/{options.steps}  loss {average:.3f}  {seconds:.0f} s", flush=True)
        if (step + 1) % options.checkpoint_steps == 0:
            save(options, model, optimizer, step + 1, seconds)
    return seconds, model.eval()


def share_of_rate(progress: float) -> float:
    """Learning rate as a share of the highest: up in a twentieth of the steps, down along a cosine."""
    warm = 0.05
    return (
        progress / warm if progress < warm else (1 + math.cos(math.pi * (progress - warm) / (1 - warm))) / 2
    )


def batch_of_step(
    options: argparse.Namespace, makers: dict[int, FormulaImages], step: int
) -> tuple[Tensor, Tensor]:
    """Images in uint8 and their classes; every image of a run is another one.

    Most steps are at half the size, where an image costs a quarter. The images become harder until two fifths
    of the steps are done.
    """
    progress = step / options.steps
    is_small = progress < options.small_share or step % 2 == 1
    images = makers[options.image_size // 2 if is_small else options.image_size]
    rng = np.random.default_rng([options.seed, 2, step])
    categories = rng.integers(options.categories, size=options.batch_size)
    instances = step * options.batch_size + np.arange(options.batch_size)
    made = images.batch(categories, instances, hardest=min(1.0, progress / 0.4))
    return torch.from_numpy(made), torch.from_numpy(categories)


def network_input(images: Tensor) -> Tensor:
    """Images in uint8, normalised, in the layout that convolutions are fastest in."""
    return ((images.float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def test(model: nn.Module, images: FormulaImages) -> float:
    """Percent of new images whose class is found."""
    categories: NDArray[np.int64] = np.arange(images.num_categories)
    correct = 0
    for number in range(IMAGES_PER_CATEGORY_TESTED):
        made = torch.from_numpy(images.batch(categories, np.full_like(categories, HELD_OUT + number)))
        found = model(network_input(made)).argmax(dim=1)
        correct += int((found == torch.from_numpy(categories)).sum())
    return 100 * correct / (IMAGES_PER_CATEGORY_TESTED * images.num_categories)


def checkpoint_of(options: argparse.Namespace) -> Path:
    """Where an unfinished run is kept."""
    return options.output.with_suffix(".unfinished")


def save(
    options: argparse.Namespace, model: nn.Module, optimizer: torch.optim.AdamW, step: int, seconds: float
) -> None:
    """Write the state of a run, whole or not at all."""
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key in OPTIMIZER_STATE:
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key].contiguous()
    path = checkpoint_of(options)
    about = {"settings": json.dumps(settings(options)), "step": str(step), "seconds": str(seconds)}
    with atomic_file(path) as scratch:
        save_file(tensors, scratch, metadata=about)


def restore(options: argparse.Namespace, model: nn.Module, optimizer: torch.optim.AdamW) -> tuple[int, float]:
    """Put back what an interrupted run had; its next step and the seconds it took, zeros if there is none."""
    path = checkpoint_of(options)
    if not path.exists():
        return 0, 0.0
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    if json.loads(about["settings"]) != settings(options):
        raise SystemExit(
            f"{path} is of a run with other options: {about['settings']}. Name another --output."
        )
    tensors = load_file(path)
    model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
    for name, parameter in model.named_parameters():
        for key in OPTIMIZER_STATE:
            optimizer.state[parameter][key] = tensors[f"{key}.{name}"]
    return int(about["step"]), float(about["seconds"])


if __name__ == "__main__":
    main()
