"""Images per second of training steps alone, beside the step of timm's train.py, in turns.

    python recipes/benchmark_steps.py --model my_resnet50 --batch_size 256 --compile --profile

The batches wait in memory as loader processes leave them: uint8, pinned where there is a GPU. Both send them
to the device, normalise them there, and do a step of AdamW in the same precision with channels_last. The step
of resnet_hub also watches for losses and gradients that are no numbers, which timm's does not by itself.

With `--profile` it says which part of the time the device computes during steps of resnet_hub.
"""

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torchvision.transforms import v2

import resnet_hub  # noqa: F401  registers the family in timm
from resnet_hub.finetuning.batches.augment import Mixer
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.config.options import MachineOptions, Optimizer
from resnet_hub.finetuning.engine.deferred_metrics import can_be_read_late
from resnet_hub.finetuning.engine.losses import Distillation, distillation_loss
from resnet_hub.finetuning.engine.micro_batch import steps_that_fit
from resnet_hub.finetuning.engine.optimizer import Schedule, make_optimizer
from resnet_hub.finetuning.engine.step import settle, train_steps
from resnet_hub.finetuning.engine.stopwatch import Stopwatch
from resnet_hub.finetuning.engine.trainer import Progress, Trainer
from resnet_hub.finetuning.machine.machine import Machine, start_machine
from resnet_hub.finetuning.network.teacher import Teacher
from resnet_hub.images.preprocessing import Preprocessing

CLASSES, RATE, WEIGHT_DECAY, SMOOTHING = 1000, 1e-3, 0.05, 0.1
DIFFERENT_BATCHES = 4
WARMUP_STEPS = 5

Steps = Callable[[int], None]
"""Does so many steps and returns when the device has done them."""


def main() -> None:
    """Print a line per contender."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="my_resnet50")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of a contender in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="measure the compiled forms as well")
    parser.add_argument("--profile", action="store_true", help="say how busy the device is")
    options = parser.parse_args()
    if options.profile and not torch.cuda.is_available():
        parser.error("--profile asks a GPU what it did, and there is none.")
    machine = start_machine(MachineOptions())
    batches = make_batches(options, pin_memory=machine.accelerator.device.type == "cuda")
    contenders: dict[str, Steps] = {}
    for compiled in (False, True) if options.compile else (False,):
        for name, make in CONTENDERS.items():
            contenders[f"{name}, compiled" if compiled else name] = make(
                options, machine, batches, compiled=compiled
            )
    print(f"{machine.describe()}; {options.model}, {options.image_size} px, batches of {options.batch_size}")
    for name, steps in contenders.items():
        started = time.perf_counter()
        steps(WARMUP_STEPS)
        print(
            f"{name}: the first {WARMUP_STEPS} steps took {time.perf_counter() - started:.1f} s", flush=True
        )
    print_rounds(measure(contenders, options))
    if options.profile:
        for name, steps in contenders.items():
            print(f"{name}: the device computes for {busy_share(steps, options.steps):.1%} of the time")


def make_batches(options: argparse.Namespace, *, pin_memory: bool) -> list[tuple[Tensor, Tensor]]:
    """Some batches of noise with channels last, and labels."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, options.image_size, options.image_size, 3)
    batches = []
    for _ in range(DIFFERENT_BATCHES):
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
        labels = torch.randint(0, CLASSES, (options.batch_size,), generator=generator)
        batches.append((images.pin_memory(), labels.pin_memory()) if pin_memory else (images, labels))
    return batches


def make_trainer(
    machine: Machine,
    model: str,
    *,
    num_classes: int = CLASSES,
    image_size: int | None = None,
    compiled: bool = False,
    optimizer: Optimizer = "adamw",
    max_grad_norm: float = math.inf,
    mixes: bool = False,
    has_teacher: bool = False,
) -> Trainer:
    """A trainer with all that a run has, on a network of random weights."""
    torch.manual_seed(0)
    network = timm.create_model(model, num_classes=num_classes).to(memory_format=machine.memory_format)
    prepared, optimizing = machine.accelerator.prepare(
        network, make_optimizer(network, optimizer, weight_decay=WEIGHT_DECAY)
    )
    transforms = [v2.MixUp(alpha=0.2, num_classes=num_classes), v2.CutMix(alpha=1.0, num_classes=num_classes)]
    device = machine.accelerator.device
    return Trainer(
        model=prepared,
        compiled=torch.compile(prepared, dynamic=False) if compiled else None,
        optimizer=optimizing,
        schedule=Schedule(peak_rate=RATE, warmup_steps=0, total_steps=10**6),
        loss_function=nn.CrossEntropyLoss(label_smoothing=SMOOTHING, reduction="sum"),
        preprocessing=Preprocessing.of_model(network, image_size),
        machine=machine,
        stopwatch=Stopwatch({}, device),
        seed=0,
        max_grad_norm=max_grad_norm,
        mix=Mixer(v2.RandomChoice(transforms)) if mixes else None,
        distillation=make_distillation(model, num_classes, machine) if has_teacher else None,
        reads_late=can_be_read_late(machine.accelerator),
        known_to_fit=set() if device.type == "cuda" else None,
    )


def make_distillation(model: str, num_classes: int, machine: Machine) -> Distillation:
    """A teacher of random weights with another normalization and another order of classes."""
    teacher = Teacher(
        network=timm.create_model(model, num_classes=num_classes).eval().requires_grad_(False),
        order=torch.arange(num_classes).flip(0),
        scale=torch.full((3, 1, 1), 0.5),
        offset=torch.full((3, 1, 1), 0.1),
        size=None,
    )
    return Distillation(
        teacher=teacher.on(machine.accelerator.device, machine.memory_format),
        loss=partial(distillation_loss, temperature=1.0),
        weight=0.5,
    )


def our_steps(
    options: argparse.Namespace, machine: Machine, batches: list[tuple[Tensor, Tensor]], *, compiled: bool
) -> Steps:
    """Steps of `train_steps`, as a run does them."""
    return steps_of(make_trainer(machine, options.model, compiled=compiled), Progress(), batches)


def steps_of(trainer: Trainer, progress: Progress, batches: list[tuple[Tensor, Tensor]]) -> Steps:
    """Steps of a trainer on these batches, one after the other and again."""
    steps = ([Batch(images, labels, labels)] for images, labels in itertools.cycle(batches))

    def do(num_steps: int) -> None:
        trainer.model.train()
        fitting = steps_that_fit(trainer, progress, itertools.islice(steps, num_steps), epoch=0)
        for _ in train_steps(trainer, progress, fitting, epoch=0):
            pass
        settle(trainer, progress)
        wait_for(trainer.machine.accelerator.device)

    return do


def timm_steps(
    options: argparse.Namespace,
    machine: Machine,
    batches: list[tuple[Tensor, Tensor]],
    *,
    compiled: bool,
    fused: bool = False,
) -> Steps:
    """What train.py of timm does in a step with --amp-dtype bfloat16 --channels-last (--torchcompile)."""
    device = machine.accelerator.device
    model = timm.create_model(options.model, num_classes=CLASSES).to(
        device, memory_format=torch.channels_last
    )
    config = Preprocessing.of_model(model)
    faster = {"fused": True} if fused else {}
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=WEIGHT_DECAY, **faster)
    loss_function = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    forward = torch.compile(model) if compiled else model
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=machine.precision == "bf16")

    def do(num_steps: int) -> None:
        model.train()
        loader = PrefetchLoader(_Batches(batches, num_steps), mean=config.mean, std=config.std, device=device)
        for images, labels in loader:
            with autocast():
                loss = loss_function(forward(images.contiguous(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait_for(device)

    return do


CONTENDERS = {
    "timm": timm_steps,
    "timm, fused AdamW": partial(timm_steps, fused=True),
    "resnet_hub": our_steps,
}


class _Batches:
    """So many batches, one after the other and again."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]], num_batches: int) -> None:
        self._batches, self._num_batches = batches, num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return itertools.islice(itertools.cycle(self._batches), self._num_batches)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(contenders: dict[str, Steps], options: argparse.Namespace) -> dict[str, list[float]]:
    """Images per second of each contender in each round; in a round each has its turn."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, steps in contenders.items():
            started = time.perf_counter()
            steps(options.steps)
            seconds = time.perf_counter() - started
            rates[name].append(options.steps * options.batch_size / seconds)
    return rates


def print_rounds(rates: dict[str, list[float]]) -> None:
    """Images per second, and times as fast as timm's plain step in the same round."""
    print(f"median [lowest, highest] of {len(rates['timm'])} rounds: images per second, times timm's")
    for name, found in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(found, rates["timm"], strict=True)]
        print(
            f"{name:<28} {statistics.median(found):9.1f} [{min(found):.1f}, {max(found):.1f}]   "
            f"{statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]"
        )


def busy_share(steps: Steps, num_steps: int) -> float:
    """The part of the time of some steps in which the GPU runs kernels, one after the other."""
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        steps(num_steps)
        seconds = time.perf_counter() - started
    kernels = sum(event.self_device_time_total for event in profiler.key_averages())
    return kernels / 1e6 / seconds


if __name__ == "__main__":
    main()
