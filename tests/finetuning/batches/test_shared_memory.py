"""Little shared memory, as Docker gives it, costs time and a line that tells what to type, nothing else."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset, get_worker_info

from resnet_hub.finetuning.batches.worker_processes import LastingLoader, LoaderOptions
from resnet_hub.shared_memory import fit_workers

from ..conftest import environment, finetune_command
from ..runs import SMALL, ForkServer, assert_same_run

PHOTOS = 64 * 3 * 224 * 224  # bytes of a batch


def with_shared_memory(size: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a command does in which /dev/shm is as small as that."""
    mount = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm || exit 99; exec "$@"'
    words = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, size, *command]
    variables = environment(PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run(words, capture_output=True, text=True, env=variables, check=False, timeout=280)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize(
    ("batch_bytes", "expected"),
    [(1, (16, 4)), (PHOTOS, (16, 4)), (100_000_000, (16, 2)), (900_000_000, (1, 1)), (9**10, (0, 4))],
)
def test_batches_ahead_are_bounded_by_bytes_wherever_there_is_room(
    batch_bytes: int, expected: tuple[int, int], tmp_path: Path
):
    assert fit_workers(16, 4, batch_bytes=batch_bytes, folder=tmp_path / "none") == expected


@pytest.mark.parametrize(
    ("size", "processes", "expected"),
    [
        ("64k", 1, "(0, 4)"),
        ("32m", 1, "(0, 4)"),
        ("64m", 1, "(2, 1)"),
        ("64m", 2, "(0, 4)"),
        ("256m", 1, "(16, 1)"),
        ("512m", 1, "(16, 2)"),
        ("1g", 1, "(16, 4)"),
    ],
)
def test_workers_and_batches_ahead_fit_into_the_shared_memory_that_is_free(
    size: str, processes: int, expected: str
):
    code = "import logging; logging.basicConfig(); from resnet_hub.shared_memory import fit_workers;"
    code += f"print(fit_workers(16, 4, batch_bytes={PHOTOS}, processes={processes}))"
    done = with_shared_memory(size, [sys.executable, "-c", code])
    assert done.stdout.strip() == expected, done.stderr
    assert ("--shm-size 8g or --ipc=host" in done.stderr) == (expected != "(16, 4)")


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("size", ["64k", "450k"])
def test_a_run_in_a_container_with_little_shared_memory_is_the_same_run(
    size: str, server: ForkServer, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    command = finetune_command(*SMALL, "--dataloader_num_workers", "2", "--output_dir", folder)
    done = with_shared_memory(size, command)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("--shm-size 8g or --ipc=host") == 1
    assert_same_run(folder, uninterrupted)


class Images(Dataset[tuple[torch.Tensor]]):
    """Batches of two megabytes; making one may end a worker."""

    def __init__(self, ends_by: int | None = None) -> None:
        self.ends_by = ends_by

    def __getitems__(self, key: int) -> tuple[torch.Tensor]:
        if self.ends_by is not None and key == 5 and get_worker_info() is not None:
            os.kill(os.getpid(), self.ends_by)
        return (torch.full((2_000_000,), key, dtype=torch.uint8),)


def load(images: Images) -> list[int]:
    loader = LastingLoader(images, LoaderOptions(num_workers=2))
    return [int(batch[0][0]) for batch in loader.batches(lambda done: range(done, 12))]


def test_shared_memory_that_fills_up_during_a_run_costs_no_batch():
    code = (
        f"import logging; logging.basicConfig(); from {__name__} import Images, load; print(load(Images()))"
    )
    done = with_shared_memory("5m", [sys.executable, "-c", code])
    assert done.stdout.strip() == str(list(range(12))), done.stderr
    assert "/dev/shm full (in a container, docker run --shm-size 8g or --ipc=host" in done.stderr


def test_a_bus_error_names_shared_memory_and_costs_no_batch(caplog: pytest.LogCaptureFixture):
    assert load(Images(ends_by=signal.SIGBUS)) == list(range(12))
    assert "docker run --shm-size 8g or --ipc=host" in caplog.text
