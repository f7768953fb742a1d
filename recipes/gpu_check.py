"""What one GPU says of resnet_hub in eight minutes, in parts that are processes with limits of their own.

    python recipes/gpu_check.py OUT            on a machine with a GPU and the extra `finetune`
    python recipes/gpu_check.py OUT --tiny     on a CPU, to try the parts out

Numbers come first, and what compiles comes last. OUT gets a log of each part, and the photographs and runs
that the parts make. Nothing is fetched from anywhere.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.state import AcceleratorState
from benchmark_data import PREPROCESSING, make_photo
from benchmark_steps import make_batches, make_trainer, steps_of

from resnet_hub.cores import available_cores
from resnet_hub.finetuning.__main__ import main as finetune
from resnet_hub.finetuning.batches.augment import build_train_transform
from resnet_hub.finetuning.batches.loader import TrainBatches
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.hyperrule import Situation, decide
from resnet_hub.finetuning.config.options import FinetuneConfig, MachineOptions
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.engine.trainer import Progress
from resnet_hub.finetuning.machine.machine import start_machine
from resnet_hub.finetuning.network.averaging import StepAverage

HERE = Path(__file__).resolve().parent
SECONDS = 460
LEAST_SECONDS = 15  # below which a part is not begun
KINDS_OF_STEPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixing": {"mixes": True},
    "clipped": {"max_grad_norm": 1.0},
    "teacher": {"has_teacher": True},
    "lamb": {"optimizer": "lamb"},
}


def main() -> None:
    """Carry out all parts, or the one that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder for logs, runs and photographs")
    parser.add_argument("--part", choices=PARTS, help="only this one, in this process")
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps, for a CPU")
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        PARTS[options.part][0](options)
        return
    until = time.monotonic() + SECONDS
    ends = {
        name: carry_out(name, options, until - time.monotonic()) for name in PARTS if name != "one_of_two"
    }
    sys.exit(any(ends.values()))


def carry_out(part: str, options: argparse.Namespace, seconds_left: float) -> int:
    """Carry out a part within its limit, print the end of its log, and return its exit code."""
    if seconds_left < LEAST_SECONDS:
        print(f"== {part}: no time left", flush=True)
        return 1
    print(f"== {part}", flush=True)
    started, log = time.monotonic(), options.out / f"{part}.log"
    with log.open("w") as said:
        process = start(part, options, stdout=said, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=min(PARTS[part][1], seconds_left))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    print("\n".join(log.read_text().splitlines()[-14:])[-2500:])
    print(f"-- {part}: {code} after {time.monotonic() - started:.0f} s", flush=True)
    return code


def start(part: str, options: argparse.Namespace, **how: Any) -> subprocess.Popen[bytes]:
    """The process of a part."""
    flags = ["--tiny"] if options.tiny else []
    return subprocess.Popen([sys.executable, __file__, str(options.out), "--part", part, *flags], **how)


def about(options: argparse.Namespace) -> None:
    """Versions, and what the machine sets limits to."""
    print("torch", torch.__version__, "timm", timm.__version__, "cores", available_cores())
    print(subprocess.getoutput("df -h /dev/shm | tail -1; ulimit -n; cat /sys/fs/cgroup/cpu.max"))
    if torch.cuda.is_available():
        free, there = (amount / 2**30 for amount in torch.cuda.mem_get_info())
        print(torch.cuda.get_device_name(), f"{free:.0f} of {there:.0f} GiB free")


def steps(options: argparse.Namespace) -> None:
    """Steps beside timm's: a large network that fills the device, and a small one that does not."""
    if options.tiny:
        benchmark(
            "--model",
            "my_resnet20",
            "--image_size",
            "32",
            "--batch_size",
            "8",
            "--steps",
            "2",
            "--rounds",
            "1",
        )
        return
    benchmark("--batch_size", "256", "--profile")
    benchmark("--model", "my_resnet18", "--batch_size", "64", "--steps", "60", "--profile")


def compiled(options: argparse.Namespace) -> None:
    """Compiled steps beside timm's compiled ones."""
    if not options.tiny:
        benchmark("--batch_size", "256", "--compile", "--rounds", "2", "--profile")


def benchmark(*flags: str) -> None:
    """Measure steps with `benchmark_steps.py`."""
    subprocess.run([sys.executable, str(HERE / "benchmark_steps.py"), *flags], check=True)


def waits(options: argparse.Namespace) -> None:
    """Where each kind of step makes the program wait for the device, and how often."""
    options.image_size, options.batch_size, few = (32, 4, 2) if options.tiny else (224, 128, 20)
    model = "my_resnet20" if options.tiny else "my_resnet50"
    machine = start_machine(MachineOptions())
    batches = make_batches(options, pin_memory=torch.cuda.is_available())
    for name, kind in KINDS_OF_STEPS.items():
        trainer = make_trainer(machine, model, image_size=options.image_size, **kind)
        do = steps_of(trainer, Progress(), batches)
        do(4)
        seconds = timed(do, few) / few
        with counting_waits() as places:
            do(5)
        print(f"{name:<9} {1e3 * seconds:.2f} ms a step; waits in 5 steps: {dict(places)}", flush=True)
    trainer = make_trainer(machine, model)
    average = StepAverage(trainer.model, decay=0.999, total_steps=1000)
    seconds = timed(lambda count: [average.after_step(trainer.model, 5) for _ in range(count)], few) / few
    print(f"averaging weights takes the program {1e3 * seconds:.2f} ms a step")


def timed(do: Callable[[int], Any], count: int) -> float:
    """Seconds of doing something so many times."""
    started = time.perf_counter()
    do(count)
    return time.perf_counter() - started


@contextmanager
def counting_waits() -> Iterator[Counter[str]]:
    """Inside, places of the package that wait for the device are counted; there are none on a CPU."""
    places: Counter[str] = Counter()

    def note(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        ours = [frame for frame in traceback.extract_stack() if "resnet_hub" in Path(frame.filename).parts]
        last = (ours[-1].filename, ours[-1].lineno) if ours else (filename, lineno)
        places[f"{Path(last[0]).name}:{last[1]}"] += 1

    if not torch.cuda.is_available():
        yield places
        return
    shown, warnings.showwarning = warnings.showwarning, note
    warnings.simplefilter("always")
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield places
    finally:
        torch.cuda.set_sync_debug_mode("default")
        warnings.showwarning = shown


def precision(options: argparse.Namespace) -> None:
    """Losses of the same steps in each precision, beside those of float32."""
    options.image_size, options.batch_size, number = (32, 8, 4) if options.tiny else (96, 128, 40)
    model = "my_resnet20" if options.tiny else "my_resnet18"
    batches = make_batches(options, pin_memory=torch.cuda.is_available())
    cases = [("no", False), ("bf16", False)] + ([] if options.tiny else [("fp16", False), ("bf16", True)])
    expected: list[float] = []
    for name, is_compiled in cases:
        AcceleratorState._reset_state(reset_partial_state=True)
        machine = start_machine(MachineOptions(mixed_precision=name))  # pyright: ignore[reportArgumentType]
        progress = Progress()
        trainer = make_trainer(machine, model, image_size=options.image_size, compiled=is_compiled)
        seconds = timed(steps_of(trainer, progress, batches), number)
        losses = progress.recent_losses
        expected = expected or losses
        worst = max(abs(ours - theirs) / theirs for ours, theirs in zip(losses, expected, strict=True))
        print(
            f"{name}{' compiled' * is_compiled}: loss {losses[0]:.4f} to {losses[-1]:.4f}, at worst "
            f"{worst:.1e} from float32, {1e3 * seconds / number:.1f} ms a step",
            flush=True,
        )


def loader(options: argparse.Namespace) -> None:
    """Images per second of loader processes with nothing in their way, and the time to the first batch."""
    folder = photographs(options)
    config = FinetuneConfig(train_dir=folder, validation_fraction=0, test_fraction=0, augmentation="crop")
    started = time.perf_counter()
    data = load_data(config)
    print(f"a look at {len(data.train)} images: {time.perf_counter() - started:.1f} s", flush=True)
    settings = decide(config, Situation(num_train=len(data.train), network_width=512))
    batch_size = 16 if options.tiny else 256
    plan = EpochPlan(num_images=len(data.train), global_batch_size=batch_size, seed=0, copies=1)
    cores = available_cores()
    for workers in (2,) if options.tiny else (cores, cores // 2):
        batches = TrainBatches(
            data.train,
            [build_train_transform(settings.images, PREPROCESSING)],
            plan,
            options=LoaderOptions(num_workers=workers, pin_memory=torch.cuda.is_available()),
        )
        for epoch in range(2):
            started = time.perf_counter()
            arrivals = [time.perf_counter() - started for _ in batches.epoch(epoch)]
            print(
                f"{workers} workers, epoch {epoch}: {len(data.train) / arrivals[-1]:.0f} images/s, "
                f"the first batch after {arrivals[0]:.2f} s",
                flush=True,
            )
        del batches


def run(options: argparse.Namespace) -> None:
    """A run as users start it: its rate, what it waited for, and where its time went."""
    folder = options.out / f"run_{time.time_ns()}"
    model, size, batch = ("my_resnet20", "72", "16") if options.tiny else ("my_resnet50", "224", "256")
    flags = [
        "--train_dir",
        str(photographs(options)),
        "--model",
        model,
        "--no-pretrained",
        "--image_size",
        size,
    ]
    flags += ["--images_per_step", batch, "--num_train_epochs", "3", "--validation_fraction", "0.06"]
    command = [
        sys.executable,
        str(HERE / "finetune.py"),
        *flags,
        "--test_fraction",
        "0",
        "--output_dir",
        str(folder),
    ]
    started = time.perf_counter()
    subprocess.run(command, check=True)
    print(f"whole process {time.perf_counter() - started:.1f} s")
    for event in events(folder):
        if event["event"] == "train":
            print(
                f"step {event['step']}: {event['seconds']:.3f} s, {event['waited_for_data']:.3f} s for data"
            )
    train = json.loads((folder / "report.json").read_text())["train"]
    print({name: train[name] for name in ("seconds", "images_per_second", "station_seconds")})


def photographs(options: argparse.Namespace) -> Path:
    """Class folders of JPEGs of 500x375; each picture is there several times, with another last byte."""
    folder = options.out / "photographs"
    distinct, times = (16, 2) if options.tiny else (512, 16)
    if folder.exists():
        return folder
    with ProcessPoolExecutor(available_cores()) as pool:
        pictures = list(pool.map(make_photo, [500] * distinct, [375] * distinct, range(distinct)))
    for number in range(distinct * times):
        path = folder / f"class{number % 8}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[number % distinct] + number.to_bytes(4, "little"))
    return folder


def two(options: argparse.Namespace) -> None:
    """Two processes on one GPU, which speak over the CPU: their losses beside those of one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    codes: list[int] = []
    for world in (1, 2):
        shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "LOCAL_RANK": "0"}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if options.tiny:
            shared |= {"ACCELERATE_USE_CPU": "true"}  # accelerate sees one process there otherwise
        processes = [
            start("one_of_two", options, env=os.environ | ({"RANK": str(rank)} | shared if world > 1 else {}))
            for rank in range(world)
        ]
        codes += [process.wait() for process in processes]
        print(world, "processes ended with", codes[-world:], flush=True)
    sys.exit(any(codes))


def one_of_two(options: argparse.Namespace) -> None:
    """One of the processes of `two`."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world != "1":
        torch.distributed.init_process_group("gloo")  # NCCL refuses two processes on one GPU
    folder = options.out / f"two_{world}_{os.environ.get('MASTER_PORT', os.getpid())}"
    flags = ["--dataset_name", "digits", "--model", "my_resnet20", "--no-pretrained", "--image_size", "16"]
    flags += ["--images_per_step", "128", "--max_train_steps", "20", "--augmentation", "none"]
    flags += ["--learning_rate", "1e-3", "--mixed_precision", "no", "--sync_batchnorm", "yes"]
    code = finetune([*flags, "--output_dir", str(folder)])
    if os.environ.get("RANK", "0") == "0":
        print([round(event["loss"], 5) for event in events(folder) if "loss" in event], flush=True)
    sys.exit(code)


def events(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


PARTS: dict[str, tuple[Callable[[argparse.Namespace], None], float]] = {
    "about": (about, 40),
    "steps": (steps, 90),
    "waits": (waits, 75),
    "loader": (loader, 60),
    "run": (run, 90),
    "precision": (precision, 60),
    "two": (two, 60),
    "one_of_two": (one_of_two, 60),
    "compiled": (compiled, 170),
}
"""Each part with the seconds that it may take."""


if __name__ == "__main__":
    main()
