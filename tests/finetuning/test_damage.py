"""Damaged checkpoints: a run says what it found and keeps what was whole."""

import shutil
from pathlib import Path

import pytest

from .runs import (
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
        assert (LAST if name == "manifest" else f"{LAST}/{file}") in said, (damage, said)
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
