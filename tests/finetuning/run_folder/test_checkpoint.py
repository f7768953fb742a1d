"""A checkpoint is there whole, or it is not there; and there is always an older one."""

import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from resnet_hub import files
from resnet_hub.finetuning.run_folder import checkpoint as checkpoints
from resnet_hub.finetuning.run_folder.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_optimizer_tensors,
    optimizer_tensors,
    read_newest_checkpoint,
    remove_damaged,
    write_checkpoint,
)

from ..runs import DAMAGES, do_damage


def make(step: int) -> Checkpoint:
    return Checkpoint(tensors={"model": {"weight": torch.full((64,), float(step))}}, values={"step": step})


def newest_step(folder: Path) -> int | None:
    found = read_newest_checkpoint(folder)
    return None if found is None else found.values["step"]


def test_what_is_written_is_read_back(tmp_path: Path):
    write_checkpoint(tmp_path, 3, make(3))
    found = read_newest_checkpoint(tmp_path)
    assert found is not None
    assert torch.equal(found.tensors["model"]["weight"], torch.full((64,), 3.0))


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path):
    assert read_newest_checkpoint(tmp_path / "none") is None


def test_two_are_kept(tmp_path: Path):
    for step in range(5):
        write_checkpoint(tmp_path, step, make(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@pytest.mark.parametrize("name", ["model.safetensors", "values.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, name: str, damage: str, caplog):
    write_checkpoint(tmp_path, 1, make(1))
    do_damage(write_checkpoint(tmp_path, 2, make(2)) / name, damage)
    assert newest_step(tmp_path) == 1
    assert "step-00000002" in caplog.text
    assert name in caplog.text or name == "manifest.json"


def test_going_on_from_a_restored_checkpoint_keeps_the_new_ones(tmp_path: Path):
    """Damaged checkpoints of later steps are not the newest ones any more."""
    for step in (100, 110):
        (write_checkpoint(tmp_path, step, make(step)) / "model.safetensors").write_bytes(b"")
    write_checkpoint(tmp_path / "backup", 50, make(50)).rename(tmp_path / "step-00000050")
    write_checkpoint(tmp_path, 60, make(60))
    assert newest_step(tmp_path) == 60
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000050", "step-00000060"]


def test_a_checkpoint_of_the_same_step_stands_beside_the_other_until_it_is_whole(tmp_path: Path):
    """As after a stop in validation; however often, the last one counts and two are kept."""
    for number in range(1, 12):
        write_checkpoint(tmp_path, 5, make(number))
        assert newest_step(tmp_path) == number
    assert names_in(tmp_path) == ["step-00000005-10", "step-00000005-11"]
    write_checkpoint(tmp_path, 6, make(6))
    assert newest_step(tmp_path) == 6
    assert names_in(tmp_path) == ["step-00000005-11", "step-00000006"]


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_damaged_ones_do_not_count_as_kept_once_a_run_goes_on_from_an_older_one(tmp_path: Path):
    for step in (1, 2):
        write_checkpoint(tmp_path, step, make(step))
    (tmp_path / "step-00000002/values.json").unlink()
    remove_damaged(tmp_path)
    write_checkpoint(tmp_path, 3, make(3))
    assert names_in(tmp_path) == ["step-00000001", "step-00000003"]
    for name in names_in(tmp_path):
        (tmp_path / name / "values.json").unlink()
    remove_damaged(tmp_path)  # where none is whole, none is removed: somebody may want to rescue one
    assert names_in(tmp_path) == ["step-00000001", "step-00000003"]


def test_if_all_are_damaged_the_run_is_not_silently_started_anew(tmp_path: Path):
    for step in (1, 2):
        (write_checkpoint(tmp_path, step, make(step)) / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="--output_dir"):
        read_newest_checkpoint(tmp_path)


def write_and_die(folder: Path, *, at_operation: int) -> int:
    """Write checkpoint 3 in a process of its own that is gone at the given disk operation; its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = at_operation

    def dying(function):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for name in ("save_file", "_sha256"):
        setattr(checkpoints, name, dying(getattr(checkpoints, name)))
    files.fsync = dying(files.fsync)
    shutil.rmtree = dying(shutil.rmtree)
    Path.write_text = dying(Path.write_text)  # pyright: ignore[reportAttributeAccessIssue]
    Path.rename = dying(Path.rename)  # pyright: ignore[reportAttributeAccessIssue]
    write_checkpoint(folder, 3, make(3))
    os._exit(0)


@pytest.mark.parametrize("before", [(1, 2), (3,), (2, 3)], ids=["two", "one of its step", "its step second"])
def test_a_kill_at_any_operation_leaves_the_newest_whole_checkpoint(before: tuple[int, ...], tmp_path: Path):
    codes = []
    while not codes or codes[-1] == 9:
        folder = tmp_path / str(len(codes))
        for step in before:
            write_checkpoint(folder, step, make(step))
        codes.append(write_and_die(folder, at_operation=len(codes) + 1))
        assert newest_step(folder) in (before[-1], 3)
        write_checkpoint(folder, 4, make(4))  # and the next save cleans up
        assert not list(folder.glob(".step-*"))
    assert len(codes) > 10
    assert codes[-1] == 0


def test_everything_reaches_the_disk_before_a_checkpoint_gets_its_name(tmp_path: Path, monkeypatch):
    log = []
    real_fsync, real_rename = files.fsync, Path.rename
    monkeypatch.setattr(files, "fsync", lambda path: (log.append(path.name), real_fsync(path)))
    monkeypatch.setattr(Path, "rename", lambda self, to: (log.append("rename"), real_rename(self, to))[1])
    write_checkpoint(tmp_path, 1, make(1))
    before = log[: log.index("rename")]
    assert {"model.safetensors", "values.json", "manifest.json"} == set(before[:-1])
    assert before[-1].startswith(".step-00000001.")
    assert log[-1] == tmp_path.name


@pytest.mark.parametrize("file_size", [100, 500], ids=["no tensors", "no manifest"])
def test_a_full_disk_keeps_the_older_checkpoints(tmp_path: Path, file_size: int):
    write_checkpoint(tmp_path, 1, make(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, before[1]))
    try:
        with pytest.raises((OSError, SafetensorError), match="too large"):
            write_checkpoint(tmp_path, 2, replace(make(2), values={"long": "x" * 1000}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert newest_step(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_goes_on_bit_for_bit(memory_format: torch.memory_format):
    """In channels_last too, where a fused optimizer would mix up a state that is laid out otherwise."""
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def trained(steps: int, weights=None, optimizer_state=None):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        if weights is not None:
            network.load_state_dict(weights)
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        if optimizer_state is not None:
            load_optimizer_tensors(optimizer, optimizer_state)
        for _ in range(steps):
            network(images).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        saved = {name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()}
        state = {name: tensor.clone().contiguous() for name, tensor in optimizer_tensors(optimizer).items()}
        return saved, state

    straight, _ = trained(6)
    half, state = trained(3)
    resumed, _ = trained(3, half, state)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    forgetful, _ = trained(3, half)
    assert not all(torch.equal(straight[name], forgetful[name]) for name in straight)


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path):
    folder = write_checkpoint(tmp_path, 1, make(1))
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}
    json.loads((folder / "manifest.json").read_text())
