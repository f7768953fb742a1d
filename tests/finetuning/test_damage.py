"""Damaged checkpoints, full and read-only disks: a run says what it found and keeps what was whole."""

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import environment, finetune_command
from .runs import (
    DAMAGES,
    SMALL,
    ForkServer,
    assert_same_run,
    do_damage,
    happens,
    log_of,
    saved,
)

LAST, BEFORE = "step-00000020", "step-00000018"


@pytest.fixture(scope="module")
def stopped(server: ForkServer, tmp_path_factory) -> Path:
    """A run with whole checkpoints of steps 18 and 20, of the end of an epoch and of a signal."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    rarely = ("--checkpoint_minutes", "10")
    assert server.run(folder, *rarely, faults=[happens("loop.train_step", "SIGTERM", call=20)]) == 75
    assert saved(folder) == {LAST, BEFORE}
    return folder


FILES = ("model", "optimizer", "average", "best", "values", "manifest")


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_run_passes_over_whatever_is_damaged_and_says_what(
    name: str, server: ForkServer, stopped: Path, tmp_path: Path
):
    file = f"{name}.json" if name in ("values", "manifest") else f"{name}.safetensors"
    for damage in DAMAGES:
        folder = tmp_path / damage
        shutil.copytree(stopped, folder)
        do_damage(folder / "checkpoints" / LAST / file, damage)
        assert server.run(folder, faults=[happens("loop.train_step", "SIGTERM")]) == 75
        said = log_of(folder).read_text()
        assert f"{LAST}/{file}" in said, (damage, said)
        assert "going on from step 18 " in said
        assert saved(folder) == {BEFORE, "step-00000019"}


@pytest.mark.slow
def test_a_run_that_passed_over_a_damaged_checkpoint_ends_as_if_nothing_had_been(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    do_damage(folder / "checkpoints" / LAST / "optimizer.safetensors", "flip")
    assert server.run(folder) == 0, log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_where_all_are_damaged_nothing_is_started_anew(server: ForkServer, stopped: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in (LAST, BEFORE):
        do_damage(folder / "checkpoints" / name / "model.safetensors", "half")
    assert server.run(folder) == 1
    assert f"All checkpoints in {folder / 'checkpoints'} are damaged" in log_of(folder).read_text()
    assert saved(folder) == {LAST, BEFORE}
    assert not (folder / "report.json").exists()


# A disk of its own, which is gone with the shell: full at first, then read-only, then with room.
ON_A_DISK = """
set -u
mount -t tmpfs -o size=6500k none "$DISK"
"$@"; echo "full $?"
ls -A "$DISK/run/checkpoints"
mount -o remount,ro,size=64m "$DISK"
"$@"; echo "read-only $?"
mount -o remount,rw "$DISK"
"$@"; echo "room $?"
cp -r "$DISK/run" "$OUTPUT"
"""


def may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


NAMESPACE = ("unshare", "--mount", "--map-root-user")


@pytest.mark.slow
@pytest.mark.skipif(not may_mount(), reason="this user may not mount a file system of its own")
def test_a_full_and_a_read_only_disk_lose_no_checkpoint_and_with_room_the_run_goes_on(
    uninterrupted: Path, tmp_path: Path
):
    disk, output = tmp_path / "disk", tmp_path / "run"
    disk.mkdir()
    command = finetune_command(*SMALL, "--output_dir", disk / "run")
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", ON_A_DISK, "sh", *command],
        env=environment(DISK=str(disk), OUTPUT=str(output)),
        capture_output=True,
        text=True,
        check=False,
    )
    full, _, rest = done.stdout.partition("full 1\n")
    names, _, rest = rest.partition("read-only 2\n")
    assert rest, (done.stdout, done.stderr)
    assert "accuracy" not in full
    assert len(names.split()) == 1
    assert all(name.startswith("step-") for name in names.split())
    assert "room 0" in rest
    assert "No checkpoint could be written at step" in done.stderr
    assert "make room, and the same command goes on" in done.stderr
    assert "cannot be written to" in done.stderr
    assert "Traceback" not in done.stderr
    assert_same_run(output, uninterrupted)
