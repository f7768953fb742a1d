"""Time and accuracy of a fine-tuning run beside plain loops of timm and of transformers, on data made here.

    python recipes/benchmark.py speed
    python recipes/benchmark.py speed --contenders timm_best transformers_best --rounds 4
    python recipes/benchmark.py accuracy

Everything measured is a process of its own, started as a user starts it: `recipes/finetune.py` here,
`recipes/plain_loops.py` for the others. A round starts each of them once, each time with another first, on
the same images and for as many epochs; ratios are of the same round. The batch is 64 if no other is named,
and 8 where transformers is as it comes. Seconds of an epoch are those from the end of one validation to the
end of the next, with loading, validation and, here, checkpoints; the first epoch, in which things warm up, is
left to the seconds of the whole process. Seconds of training are the mean of all epochs, without validation.
With `--json` a measurement of speed goes on with the rounds that are in the file, so it can be made in parts.

The images are JPEGs of drawn signs (benchmark_images.py). Those of speed have 500x375 pixels, as in ImageNet;
those of accuracy, which a network of 32 px gets, 128x96.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmark_images import make_images

from resnet_hub.cores import available_cores

HERE = Path(__file__).parent

OURS = "resnet_hub"
# Name: flags of plain_loops.py. One loader process is timm's default; beside a GPU all cores load.
WORKERS = str(available_cores() if torch.cuda.is_available() else 1)
PEERS: dict[str, list[str]] = {
    "timm": ["timm"],
    "timm_best": ["timm", "--best_flags", "--workers", WORKERS],
    "transformers": ["transformers"],
    "transformers_best": ["transformers", "--best_flags", "--workers", WORKERS],
}
SMALL_BATCHES = ("transformers",)  # as it comes: its own default
# Name: preset, and the share of the loops' epochs that it gets where it does not decide itself.
PRESETS: dict[str, tuple[str, float | None]] = {
    "quick": ("quick", None),
    "balanced": ("balanced", None),
    "balanced_third": ("balanced", 1 / 3),
    "best": ("best", None),
}

Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the images, measure, print a table, and write the numbers if asked."""
    options = parse_options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        data = options.data or Path(scratch) / "signs"
        make_images(
            data,
            num_classes=options.classes,
            num_images={"train": options.train_images, "validation": options.validation_images},
            width=options.width,
        )
        record = MODES[options.mode](options, data, Path(scratch))
    if options.json:
        about = {name: str(value) for name, value in vars(options).items()}
        options.json.write_text(json.dumps({"options": about} | record, indent=2) + "\n", encoding="utf-8")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options of both modes; sizes left out are those of the mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=MODES)
    parser.add_argument(
        "--contenders", nargs="+", choices=PEERS, default=list(PEERS), help="beside resnet_hub, in speed"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of speed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of accuracy")
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="of accuracy")
    parser.add_argument(
        "--learning_rates", nargs="+", type=float, default=[5e-4, 3e-3],
        help="of the plain loops, in accuracy; the better one of each counts",
    )  # fmt: skip
    parser.add_argument("--model", help="my_resnet18 from scratch; in accuracy my_resnet20 from its weights")
    parser.add_argument("--image_size", type=int, help="224; in accuracy 32")
    parser.add_argument(
        "--epochs", type=int, help="3; in accuracy what the rule of resnet_hub says for this many images"
    )
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--train_images", type=int, help="256; in accuracy 1024")
    parser.add_argument("--validation_images", type=int, help="64; in accuracy 512")
    parser.add_argument("--width", type=int, help="of the JPEGs, 4:3: 500; in accuracy 128")
    parser.add_argument("--batch_size", type=int, default=64, help="of speed, and of the loops in accuracy")
    parser.add_argument("--data", type=Path, help="folder that keeps the images for the next time")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    for name, value in DEFAULTS[options.mode].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


DEFAULTS: dict[str, dict[str, Any]] = {
    "speed": {
        "model": "my_resnet18",
        "image_size": 224,
        "epochs": 3,
        "train_images": 256,
        "validation_images": 64,
        "width": 500,
    },
    "accuracy": {
        "model": "my_resnet20",
        "image_size": 32,
        "epochs": 30,
        "train_images": 1024,
        "validation_images": 512,
        "width": 128,
    },
}


def measure_speed(options: argparse.Namespace, data: Path, scratch: Path) -> Result:
    """Every contender once in each round, after the rounds that are in the file of `--json` already."""
    names = [OURS, *options.contenders]
    rounds = earlier_rounds(options)
    for number in range(len(rounds), len(rounds) + options.rounds):
        first = number % len(names)
        found: dict[str, Result] = {}
        for name in names[first:] + names[:first]:
            if name == OURS:
                measured = run_ours(options, data, scratch, "--recipe", "balanced", seed=number)
            else:
                measured = run_peer(options, data, scratch, flags_of_peer(name, options), seed=number)
            found[name] = measured | speeds(measured, options)
            print(f"round {number + 1}  {name:<18} {speed_line(found[name])}", flush=True)
        rounds.append(found)
    print_ratios(options, rounds)
    return {"rounds": rounds}


def earlier_rounds(options: argparse.Namespace) -> list[dict[str, Result]]:
    """The rounds that `--json` holds, measured with the same model, sizes and images."""
    if options.json is None or not options.json.exists():
        return []
    record = json.loads(options.json.read_text(encoding="utf-8"))
    names = ("mode", "classes", "batch_size", *DEFAULTS["speed"])
    if any(record["options"][name] != str(getattr(options, name)) for name in names):
        raise SystemExit(f"{options.json} holds another measurement. Name another --json.")
    return record["rounds"]


def print_ratios(options: argparse.Namespace, rounds: list[dict[str, Result]]) -> None:
    """A line for each contender: its seconds over those of resnet_hub in the same round."""
    print(
        f"\n{options.model}, {options.image_size} px, {options.epochs} epochs of "
        f"{options.train_images} images: seconds over those of {OURS} in the same round, "
        "median [lowest, highest]"
    )
    print(f"{'':<18} rounds {'process':>20} {'epoch':>20} {'training':>20}")
    for name in (OURS, *PEERS):
        pairs = [(found[name], found[OURS]) for found in rounds if name in found]
        if not pairs:
            continue
        columns = [
            spread([theirs[measured] / ours[measured] for theirs, ours in pairs])
            for measured in ("process_seconds", "epoch_seconds", "train_seconds")
        ]
        print(f"{name:<18} {len(pairs):6} " + " ".join(f"{column:>20}" for column in columns))


def speeds(found: Result, options: argparse.Namespace) -> Result:
    """Seconds of an epoch after the first, and of training alone in all of them; and images a second."""
    ends = [epoch["time"] for epoch in found["epochs"]]
    whole = (ends[-1] - ends[0]) / (len(ends) - 1)
    training = statistics.mean(epoch["train_seconds"] for epoch in found["epochs"])
    return {
        "epoch_seconds": whole,
        "train_seconds": training,
        "epoch_images_per_second": (options.train_images + options.validation_images) / whole,
        "train_images_per_second": options.train_images / training,
    }


def speed_line(found: Result) -> str:
    """One run in a line."""
    return (
        f"{found['process_seconds']:6.1f} s of the process  {found['epoch_seconds']:6.2f} s an epoch  "
        f"{found['epoch_images_per_second']:6.1f} images/s  "
        f"{found['train_images_per_second']:6.1f} images/s of training"
    )


def measure_accuracy(options: argparse.Namespace, data: Path, scratch: Path) -> Result:
    """Presets beside the full schedule of the plain loops: accuracy, and seconds to the same accuracy."""
    peers = {
        f"{name} {rate:g}": [*flags_of_peer(name, options), "--pretrained", "--learning_rate", f"{rate}"]
        for name in ("timm_best", "transformers_best")
        for rate in options.learning_rates
    }
    results: dict[str, list[Result]] = {name: [] for name in (*options.presets, *peers)}
    for seed in options.seeds:
        for name, found in results.items():
            if name in peers:
                found.append(run_peer(options, data, scratch, peers[name], seed=seed))
            else:
                found.append(run_ours(options, data, scratch, *flags_of(name, options), seed=seed))
            print(
                f"seed {seed}  {name:<24} {best_accuracy(found[-1]):7.2%}  "
                f"{found[-1]['process_seconds']:6.1f} s",
                flush=True,
            )
    full = {
        library: max(
            (found for name, found in results.items() if name.startswith(library)),
            key=lambda found: statistics.mean(map(best_accuracy, found)),
        )
        for library in ("timm", "transformers")
    }
    print(
        f"\n{options.model}, {options.image_size} px, {options.train_images} images of {options.classes} "
        f"classes, {len(options.seeds)} seeds, median [lowest, highest]: percent right in the best epoch, "
        "seconds of the process, and for each seed the share of the seconds of a library's better rate after "
        "which its mean accuracy was reached"
    )
    shares = {
        name: {library: shares_of_time(found, theirs) for library, theirs in full.items()}
        for name, found in results.items()
    }
    for name, found in results.items():
        accuracy = spread([100 * best_accuracy(result) for result in found])
        seconds = spread([result["process_seconds"] for result in found])
        reached = (f"{library} {listed(values)}" for library, values in shares[name].items())
        print(f"{name:<24} {accuracy:>22} {seconds:>25}  {'  '.join(reached)}")
    return {"results": results, "shares_of_time": shares}


def flags_of_peer(name: str, options: argparse.Namespace) -> list[str]:
    """The flags of one of PEERS."""
    return [*PEERS[name]] + ([] if name in SMALL_BATCHES else ["--batch_size", f"{options.batch_size}"])


def flags_of(name: str, options: argparse.Namespace) -> list[Any]:
    """The flags of one of PRESETS."""
    preset, share = PRESETS[name]
    epochs = [] if share is None else ["--num_train_epochs", round(share * options.epochs)]
    return ["--recipe", preset, *epochs]


def shares_of_time(found: list[Result], full: list[Result]) -> list[float | None]:
    """For each seed the part of the time of a full schedule after which its mean accuracy was reached.

    From the start of the process to the end of the first epoch that is as accurate; None if none is.
    """
    accuracy = statistics.mean(map(best_accuracy, full))
    shares: list[float | None] = []
    for result, theirs in zip(found, full, strict=True):
        ends = [epoch["time"] for epoch in result["epochs"] if epoch["accuracy"] >= accuracy]
        shares.append((ends[0] - result["started"]) / theirs["process_seconds"] if ends else None)
    return shares


def listed(shares: list[float | None]) -> str:
    """Shares of time in a line."""
    return " ".join("-" if share is None else f"{share:.2f}" for share in shares)


def best_accuracy(found: Result) -> float:
    """Of the best epoch, as a share."""
    return max(epoch["accuracy"] for epoch in found["epochs"])


def spread(values: Sequence[float]) -> str:
    """Median [lowest, highest]."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def run_ours(options: argparse.Namespace, data: Path, scratch: Path, *flags: Any, seed: int) -> Result:
    """`recipes/finetune.py` with these flags: everything else is left to it."""
    output = scratch / "run"
    shutil.rmtree(output, ignore_errors=True)
    command = [HERE / "finetune.py", *flags, "--model", options.model, "--seed", seed]
    command += ["--train_dir", data / "train", "--validation_dir", data / "validation", "--test_fraction", 0]
    command += ["--image_size", options.image_size, "--output_dir", output]
    if options.mode == "speed":
        command += [
            "--no_pretrained",
            "--per_device_train_batch_size",
            options.batch_size,
            "--num_train_epochs",
            options.epochs,
        ]
    found = run(command, scratch)
    events = [
        json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))["train"]
    spent = report["station_seconds"]
    training = sum(spent.get(station, 0.0) for station in ("data", "forward", "backward", "optimizer"))
    epochs = [
        {
            "time": event["time"],
            "accuracy": event["accuracy"],
            "train_seconds": training / max(1, report["epochs"]),
        }
        for event in events
        if event["event"] == "validation"
    ]
    return found | {"epochs": epochs, "station_seconds": spent}


def run_peer(
    options: argparse.Namespace, data: Path, scratch: Path, flags: list[str], *, seed: int
) -> Result:
    """`recipes/plain_loops.py` with these flags."""
    output = scratch / "peer.json"
    command = [HERE / "plain_loops.py", *flags, "--model", options.model, "--seed", seed, "--output", output]
    command += ["--train_dir", data / "train", "--validation_dir", data / "validation"]
    command += ["--image_size", options.image_size, "--epochs", options.epochs]
    found = run(command, scratch)
    return found | json.loads(output.read_text(encoding="utf-8"))


def run(command: list[Any], scratch: Path) -> Result:
    """Run a script to its end with empty caches of data sets; when it started, and seconds of wall time."""
    caches = scratch / "caches"
    shutil.rmtree(caches, ignore_errors=True)
    environment = os.environ | {"HF_HOME": str(caches), "HF_HUB_OFFLINE": "1"}
    started = time.time()
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.time() - started
    if done.returncode:
        raise SystemExit(
            f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stderr[-3000:]}"
        )
    return {"started": started, "process_seconds": seconds}


MODES = {"speed": measure_speed, "accuracy": measure_accuracy}

if __name__ == "__main__":
    main()
