"""Short runs with everything random on, started a second apart, and held against one another."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
import torch.multiprocessing as mp
from accelerate.state import AcceleratorState

from resnet_hub.finetuning.run_folder.checkpoint import _newest_first
from resnet_hub.results import RunReport

from .conftest import environment, events_without_time

HERE = Path(__file__).parent
IMAGES = 167
STEPS_PER_EPOCH = 6
STEPS = 5 * STEPS_PER_EPOCH

# 30 steps of 28 images in float32; everything random is on, and a checkpoint is due after 0.12 seconds.
SMALL = (
    *("--dataset_name", "digits", "--train_split", "all[:240]", "--model", "my_resnet20", "--no-pretrained"),
    *("--image_size", "8", "--horizontal_flip", "0.5", "--num_train_epochs", "5", "--warmup_steps", "4"),
    *("--per_device_train_batch_size", "14", "--gradient_accumulation_steps", "2", "--mixup", "0.2"),
    *("--random_erasing", "0.3", "--ema", "--first_image_size", "4", "--layer_decay", "0.8"),
    *("--drop_path_rate", "0.1", "--mixed_precision", "no", "--checkpoint_minutes", "0.002"),
)
# The same images in every step on two processes.
HALF = ("--per_device_train_batch_size", "7")

DAMAGES = ("empty", "half", "truncate", "flip", "delete")


class ForkServer:
    """Starts fine-tuning commands; see fork_server.py."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, HERE / "fork_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self.process = self._server.pid

    def start(
        self,
        folder: Path,
        *arguments: str,
        base: Sequence[str] = SMALL,
        faults: Sequence[Mapping[str, Any]] = (),
        **variables: str,
    ) -> int:
        """The process number of a new run into the folder, with these variables in its environment."""
        command = [*base, "--output_dir", str(folder), *arguments]
        variables |= {"FAULTS": json.dumps(list(faults))}
        return self._ask("start", str(log_of(folder)), variables, command)

    def wait(self, process: int) -> int:
        """The exit code of a run; negative for a signal."""
        return self._ask("wait", process)

    def run(self, folder: Path, *arguments: str, code: int = 0, **options: Any) -> str:
        """What all starts of a run have printed after one more, which has to end with the exit code."""
        return self.ended([self.start(folder, *arguments, **options)], folder, code=code)

    def run_two(self, folder: Path, *arguments: str, code: int = 0, **options: Any) -> str:
        """The same for a run on two processes."""
        return self.ended(self.start_two(folder, *arguments, **options), folder, code=code)

    def ended(self, processes: Sequence[int], folder: Path, *, code: int = 0) -> str:
        """The same for processes of the run that have been started."""
        codes = [self.wait(process) for process in processes]
        said = log_of(folder).read_text()
        assert codes == [code] * len(processes), said
        return said

    def start_two(self, folder: Path, *arguments: str, **options: Any) -> list[int]:
        """The same run on two processes, with the same images in every step."""
        shared = two_on_a_cpu(free_port())
        return [
            self.start(folder, *HALF, *arguments, **options, **shared, RANK=str(rank), LOCAL_RANK=str(rank))
            for rank in range(2)
        ]

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)

    def _ask(self, *question: Any) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def on_two_processes(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function of a module gives on each of two processes on CPUs, which share a run."""
    results, spawn = mp.Manager().dict(), cast(Callable[..., Any], mp.spawn)
    spawn(_work_as_one_of_two, (free_port(), work, arguments, results), nprocs=2)
    return [results[0], results[1]]


def _work_as_one_of_two(rank: int, port: int, work: Callable[..., Any], arguments: Any, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= two_on_a_cpu(port)
    results[rank] = work(*arguments)
    AcceleratorState._reset_state(reset_partial_state=True)
    dist.destroy_process_group()


def two_on_a_cpu(port: int) -> dict[str, str]:
    """What a launcher would set for both of two processes."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return meeting | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def log_of(folder: Path) -> Path:
    """What a run of the fork server printed."""
    return folder.with_name(f"{folder.name}.log")


def happens(at: str, what: str, **when: int) -> dict[str, Any]:
    return {"fault": "happens", "at": at, "what": what, **when}


def assert_same_run(folder: Path, reference: Path) -> None:
    """Bit for bit the same weights, last state, log and test score."""
    assert weights_hash(folder) == weights_hash(reference)
    assert events_without_time(folder) == events_without_time(reference)
    assert RunReport.load(folder / "report.json").test == RunReport.load(reference / "report.json").test
    assert last_state(folder) == last_state(reference)


def ledger_of(file: Path) -> dict[tuple[int, int], list[tuple[list[int], str, float]]]:
    """Images, digest of the pixels, and loss of each (epoch, step), one for each process.

    A step that was done again had the same ones, and every epoch has every image once.
    """
    found: dict[tuple[int, int, int], tuple[list[int], str, float]] = {}
    for line in file.read_text().splitlines():
        epoch, step, rank, indices, digest, loss = json.loads(line)
        assert found.setdefault((epoch, step, rank), (indices, digest, loss)) == (indices, digest, loss)
    steps: dict[tuple[int, int], list[tuple[list[int], str, float]]] = {}
    for (epoch, step, _), entry in sorted(found.items()):
        steps.setdefault((epoch, step), []).append(entry)
    for epoch in {epoch for epoch, _ in steps}:
        entries = [entry for (at, _), step in steps.items() if at == epoch for entry in step]
        assert sorted(index for indices, _, _ in entries for index in indices) == list(range(IMAGES))
    return steps


def weights_hash(folder: Path) -> str:
    return sha256(folder / "export/model.safetensors")


def last_state(folder: Path) -> dict[str, Any]:
    """Digests of the tensors in the newest checkpoint, and its progress without times."""
    newest = _newest_first(folder / "checkpoints")[0]
    progress = json.loads((newest / "values.json").read_text())["progress"]
    timed = {"seconds", "seconds_before_steps", "station_seconds"}
    return {path.name: sha256(path) for path in newest.glob("*.safetensors")} | {
        name: value for name, value in progress.items() if name not in timed
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def saved(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").glob("step-*")}


def half_written(folder: Path) -> set[str]:
    """Checkpoints that are being written, or were when their process was killed."""
    return {path.name for path in (folder / "checkpoints").glob(".step-*.part")}


def is_saving(folder: Path) -> bool:
    return bool(half_written(folder))


def is_alive(process: int) -> bool:
    """Whether the process has not ended; one that has, and that nobody has asked about yet, is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], Any], *, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def do_damage(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "delete":
        file.unlink()
        return
    if damage == "flip":
        content[len(content) // 2] ^= 1
    kept = {"empty": 0, "half": len(content) // 2, "truncate": len(content) - 1}.get(damage, len(content))
    file.write_bytes(content[:kept])


def kill_group(process: int) -> None:
    os.killpg(process, signal.SIGKILL)
