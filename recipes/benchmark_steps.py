"""Images per second of training steps alone, beside the step of timm's train.py, in turns.

    python recipes/benchmark_steps.py --model my_resnet50 --batch_size 256 --compile --profile

The batches wait in memory as loader processes leave them: uint8, pinned where there is a GPU. Both send them
to the device, normalise them there, and do a step of AdamW in the same precision with channels_last. The step
of resnet_hub also watches for losses and gradients that are no numbers, which timm's does not by itself.

With `--profile` it says which part of the time the device computes during steps of resnet_hub.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import timm
import torch
from timm.data.loader import PrefetchLoader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import resnet_hub  # noqa: F401  registers the family in timm
from resnet_hub.finetuning.batches.loader import Batch
from resnet_hub.finetuning.config.options import MachineOptions
from resnet_hub.finetuning.engine.deferred_metrics import can_be_read_late
from resnet_hub.finetuning.engine.optimizer import Schedule, make_optimizer
from resnet_hub.finetuning.engine.step import settle, train_steps
from resnet_hub.finetuning.engine.stopwatch import Stopwatch
from resnet_hub.finetuning.engine.trainer import Progress, Trainer
from resnet_hub.finetuning.machine.machine import Machine, start_machine
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
        for name, make in (("timm", timm_steps), ("resnet_hub", our_steps)):
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


def our_steps(
    options: argparse.Namespace, machine: Machine, batches: list[tuple[Tensor, Tensor]], *, compiled: bool
) -> Steps:
    """Steps of `train_steps`, as a run does them."""
    network = timm.create_model(options.model, num_classes=CLASSES).to(memory_format=machine.memory_format)
    preprocessing = Preprocessing.of_model(network)
    model, optimizer = machine.accelerator.prepare(
        network, make_optimizer(network, weight_decay=WEIGHT_DECAY)
    )
    trainer = Trainer(
        model=model,
        compiled=torch.compile(model, dynamic=False) if compiled else None,
        optimizer=optimizer,
        schedule=Schedule(peak_rate=RATE, warmup_steps=0, total_steps=10**6),
        loss_function=nn.CrossEntropyLoss(label_smoothing=SMOOTHING, reduction="sum"),
        preprocessing=preprocessing,
        machine=machine,
        stopwatch=Stopwatch({}, machine.accelerator.device),
        seed=0,
        reads_late=can_be_read_late(machine.accelerator),
    )
    progress = Progress()
    steps = ([Batch(images, labels, labels)] for images, labels in itertools.cycle(batches))

    def do(num_steps: int) -> None:
        model.train()
        for _ in train_steps(trainer, progress, itertools.islice(steps, num_steps), epoch=0):
            pass
        settle(trainer, progress)
        wait_for(machine.accelerator.device)

    return do


def timm_steps(
    options: argparse.Namespace, machine: Machine, batches: list[tuple[Tensor, Tensor]], *, compiled: bool
) -> Steps:
    """What train.py of timm does in a step with --amp-dtype bfloat16 --channels-last (--torchcompile)."""
    device = machine.accelerator.device
    model = timm.create_model(options.model, num_classes=CLASSES).to(
        device, memory_format=torch.channels_last
    )
    config = Preprocessing.of_model(model)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=WEIGHT_DECAY)
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
            f"{name:<22} {statistics.median(found):9.1f} [{min(found):.1f}, {max(found):.1f}]   "
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
