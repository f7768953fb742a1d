"""Seconds of publishing and of loading a ResNet-50, beside HfApi.upload_folder and timm, in turns.

    python recipes/benchmark_push.py --rounds 8

It needs a checkout: the Hub is `python -m tests.hub_server` on loopback, in a process of its own. Each round
pushes a folder by each way into a new repository, with other weights each time, because a Hub takes a large
file only once; then it loads one published model from the cache by each way. Reading back is not counted:
HfApi.upload_folder does not do it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Start a Hub, measure, print two tables, and write the numbers if asked."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as scratch:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.hub_server", f"{scratch}/hub"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            said = server.stdout.readline().split()
            if not said:
                sys.exit("The Hub did not start; it needs the tests' packages: pip install -e '.[test]'")
            # huggingface_hub reads these when it is imported, so nothing of ours is imported before.
            os.environ |= dict(setting.split("=", 1) for setting in said) | {"HF_HOME": f"{scratch}/home"}
            os.environ.pop("HF_HUB_OFFLINE", None)
            record = measure(Path(scratch), arguments)
        finally:
            server.terminate()
            server.wait()
    print_table(record)
    if arguments.output:
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Options of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="my_resnet50")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    return parser.parse_args()


def measure(scratch: Path, arguments: argparse.Namespace) -> dict:
    """Seconds of each way in each round, and the ratios within the rounds."""
    import timm  # noqa: PLC0415
    from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415

    import resnet_hub  # noqa: PLC0415

    disable_progress_bars()
    ways: dict[str, Callable[[Path, str], float]] = {
        "HfApi.upload_folder": upload_folder,
        "push_folder": push_without_reading_back,
    }
    pushes: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(arguments.rounds + 1):
        for way in sorted(ways, reverse=number % 2 == 1):
            folder = new_folder(arguments.model, scratch / "export")
            seconds = ways[way](folder, f"alice/{way.replace('.', '-')}-{number}")
            if number > 0:  # the first round warms up
                pushes[way].append(seconds)
    source = "alice/push_folder-1"
    loads: dict[str, list[float]] = {"timm.create_model": [], "resnet_hub.load": []}
    readers: dict[str, Callable[[], object]] = {
        "timm.create_model": lambda: timm.create_model(f"hf-hub:{source}", pretrained=True),
        "resnet_hub.load": lambda: resnet_hub.load(source),
    }
    for number in range(arguments.rounds + 1):
        for way in sorted(readers, reverse=number % 2 == 1):
            start = time.perf_counter()
            readers[way]()
            if number > 0:  # the first round fills the cache
                loads[way].append(time.perf_counter() - start)
    return {
        "model": arguments.model,
        "rounds": arguments.rounds,
        "push": {way: summary(pushes, way, reference="HfApi.upload_folder") for way in pushes},
        "cached load": {way: summary(loads, way, reference="timm.create_model") for way in loads},
    }


def new_folder(model: str, folder: Path) -> Path:
    """A folder of save_folder with weights that nobody has seen."""
    import timm  # noqa: PLC0415

    from resnet_hub import save_folder  # noqa: PLC0415

    names = [f"class {number}" for number in range(1000)]
    return save_folder(timm.create_model(model), folder, class_names=names, overwrite=folder.exists())


def upload_folder(folder: Path, repo_id: str) -> float:
    """Seconds of what huggingface_hub itself does."""
    from huggingface_hub import HfApi  # noqa: PLC0415

    start = time.perf_counter()
    HfApi().create_repo(repo_id)
    HfApi().upload_folder(repo_id=repo_id, folder_path=folder)
    return time.perf_counter() - start


def push_without_reading_back(folder: Path, repo_id: str) -> float:
    """Seconds of push_folder, less those that it reads back for."""
    from resnet_hub.hub import push, push_folder  # noqa: PLC0415

    reading, read_back = [0.0], push.read_back

    def timed(*arguments: object) -> None:
        start = time.perf_counter()
        read_back(*arguments)
        reading[0] += time.perf_counter() - start

    push.read_back = timed
    try:
        start = time.perf_counter()
        push_folder(folder, repo_id)
        return time.perf_counter() - start - reading[0]
    finally:
        push.read_back = read_back


def summary(seconds: dict[str, list[float]], way: str, *, reference: str) -> dict:
    """Median and quartiles of the seconds, and of the ratio to the reference in the same round."""
    ratios = [ours / theirs for theirs, ours in zip(seconds[reference], seconds[way], strict=True)]
    return {
        "seconds": statistics.median(seconds[way]),
        "seconds_quartiles": statistics.quantiles(seconds[way], n=4)[::2],
        "ratio": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }


def print_table(record: dict) -> None:
    """One line for each way."""
    print(f"{record['model']}, {record['rounds']} rounds in turns, median [quartiles]")
    for what in ("push", "cached load"):
        for way, row in record[what].items():
            low, high = row["seconds_quartiles"]
            least, most = row["ratio_quartiles"]
            print(
                f"{what:12} {way:20} {row['seconds']:7.3f} s [{low:.3f}, {high:.3f}]"
                f"   ratio {row['ratio']:.3f} [{least:.3f}, {most:.3f}]"
            )


if __name__ == "__main__":
    main()
