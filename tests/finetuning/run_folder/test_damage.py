"""Damaged checkpoints: a run says what it found and keeps what was whole."""

import shutil
from pathlib import Path

import pytest

from resnet_hub.finetuning.run_folder.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint

from ..runs import (
    DAMAGES,
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
    server.run(folder, *rarely, faults=[happens("engine.step.train_step", "SIGTERM", call=20)], code=75)
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
        said = server.run(folder, faults=[happens("engine.step.train_step", "SIGTERM")], code=75)
        assert (LAST if name == "manifest" else f"{LAST}/{file}") in said, (damage, said)
        assert "resuming from step 18 " in said
        assert saved(folder) == {BEFORE, "step-00000019"}


@pytest.mark.slow
def test_a_run_that_passed_over_a_damaged_checkpoint_ends_as_if_nothing_had_been(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    do_damage(folder / "checkpoints" / LAST / "optimizer.safetensors", "flip")
    server.run(folder)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_where_all_are_damaged_nothing_is_started_anew(server: ForkServer, stopped: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    for name in (LAST, BEFORE):
        do_damage(folder / "checkpoints" / name / "model.safetensors", "half")
    server.run(folder, code=1)
    assert f"All checkpoints in {folder / 'checkpoints'} are damaged" in log_of(folder).read_text()
    assert saved(folder) == {LAST, BEFORE}
    assert not (folder / "report.json").exists()


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_says_so_and_with_resume_must_begins_nothing(
    server: ForkServer, stopped: Path, uninterrupted: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    shutil.rmtree(folder / "checkpoints")
    log = (folder / "metrics.jsonl").read_bytes()
    server.run(folder, "--resume", "must", code=2)
    assert "there is no checkpoint in" in log_of(folder).read_text()
    assert (folder / "metrics.jsonl").read_bytes() == log
    server.run(folder)
    dropped = len(log.splitlines())
    assert f"the run starts over; the {dropped} events in its log are dropped" in log_of(folder).read_text()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_a_checkpoint_of_another_release_is_named_and_left_alone(
    server: ForkServer, stopped: Path, tmp_path: Path
):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    checkpoints = folder / "checkpoints"
    ours = read_newest_checkpoint(checkpoints)
    assert ours is not None
    theirs = Checkpoint(tensors=ours.tensors, values={**ours.values, "format": 99})
    write_checkpoint(checkpoints, 21, theirs)
    before = saved(folder)
    said = server.run(folder, code=1)
    assert "are of format 99, and this release of resnet_hub reads format 1" in said
    assert "Traceback" not in said
    assert saved(folder) == before
