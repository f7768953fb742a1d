"""Checkpoints as transactions: a checkpoint is there whole and verified, or it is not there.

A checkpoint is written to a scratch folder, its files are hashed and fsynced, and a rename makes it visible.
Two are kept; the newest one whose hashes are right is used. Tensors are in safetensors and the rest in JSON:
nothing is pickled.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from resnet_hub.errors import RunError
from resnet_hub.files import atomic_folder, remove_leftovers

logger = logging.getLogger(__name__)

KEPT = 2
_MANIFEST, _VALUES, _MODEL = "manifest.json", "values.json", "model.safetensors"
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


class CheckpointError(RunError):
    """No checkpoint of a run can be read."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The state of a run: named groups of tensors, and values that JSON knows."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint of a step and remove those that are no longer needed.

    Whatever goes wrong, the checkpoints that were there before stay readable: they are removed only after
    the new one is complete, and one of the same step (from a stop in validation) gets no second one in its
    place but one beside it, `step-<step>-2`.
    """
    remove_leftovers(folder)
    final = folder / _free_name(folder, step)
    with atomic_folder(final) as scratch:
        for name, group in checkpoint.tensors.items():
            plain = {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}
            save_file(plain, scratch / f"{name}.safetensors")
        (scratch / _VALUES).write_text(json.dumps(checkpoint.values), encoding="utf-8")
        hashes = {path.name: _sha256(path) for path in sorted(scratch.iterdir())}
        (scratch / _MANIFEST).write_text(json.dumps({"sha256": hashes}), encoding="utf-8")
    newest_first = _newest_first(folder)
    place = newest_first.index(final)
    # Those of later steps were passed over as damaged when the run went on from an earlier one.
    for path in newest_first[:place] + newest_first[place + KEPT :]:
        shutil.rmtree(path, ignore_errors=True)  # the new one is whole; an old one that stays does no harm
    return final


def read_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None where there is none at all.

    A damaged one is passed over with a warning that names the damaged file. Raises CheckpointError when there
    are checkpoints and all are damaged: starting over would throw away work that somebody may want to rescue.
    """
    damages = []
    for path in _newest_first(folder):
        damage = find_damage(path)
        if damage is None:
            return _read(path)
        damages.append(damage)
        logger.warning("Checkpoint passed over: %s", damage)
    if damages:
        raise CheckpointError(
            f"All checkpoints in {folder} are damaged: {'; '.join(damages)}. Restore one from a backup, "
            f"or start over in another --output_dir."
        )
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's folder, naming the file; None if nothing is."""
    hashes = _hashes(path)
    if hashes is None:
        return f"{path / _MANIFEST} is missing or unreadable"
    for name, expected in hashes.items():
        file = path / Path(name).name
        try:
            if _sha256(file) != expected:
                return f"{file} is not what was written (its sha256 differs)"
        except OSError as error:
            return f"{file} is missing or unreadable ({error.strerror})"
    return None


def has_checkpoints(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or damaged."""
    return bool(_newest_first(folder))


def newest_values(folder: Path) -> Mapping[str, Any]:
    """The values of the newest checkpoint in which they are whole; its tensors are not looked at."""
    for path in _newest_first(folder):
        hashes, file = _hashes(path), path / _VALUES
        if hashes and file.is_file() and _sha256(file) == hashes[_VALUES]:
            return json.loads(file.read_text(encoding="utf-8"))
    return {}


def _hashes(path: Path) -> dict[str, str] | None:
    """The sums that the manifest of a checkpoint lists; None where it is damaged."""
    try:
        hashes = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        return dict(hashes) if {_MODEL, _VALUES} <= hashes.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def remove_damaged(folder: Path) -> None:
    """Remove damaged checkpoints that are newer than a whole one: they would count among those kept."""
    damaged = []
    for path in _newest_first(folder):
        if find_damage(path) is None:
            for other in damaged:
                shutil.rmtree(other, ignore_errors=True)
            return
        damaged.append(path)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat names: `<number of the parameter>.<name>`, and `group<number>.step`.

    LAMB counts its steps in its groups; the rest of a group follows from the configuration.
    """
    state = {
        f"{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }
    steps = {
        f"group{number}.step": torch.as_tensor(group["step"])
        for number, group in enumerate(optimizer.param_groups)
        if "step" in group
    }
    return state | steps


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, into an optimizer made by the same configuration."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for flat_name, tensor in tensors.items():
        number, name = flat_name.split(".", 1)
        if number.startswith("group"):
            groups[int(number.removeprefix("group"))][name] = tensor
        else:
            state.setdefault(int(number), {})[name] = _laid_out_like(tensor, parameters[int(number)])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _laid_out_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor in the parameter's memory format: a fused optimizer walks both in the order of memory."""
    if tensor.shape != parameter.shape:
        return tensor
    return torch.empty_like(parameter, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def _read(path: Path) -> Checkpoint:
    return Checkpoint(
        tensors={file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))},
        values=json.loads((path / _VALUES).read_text(encoding="utf-8")),
    )


def _newest_first(folder: Path) -> list[Path]:
    paths = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in paths if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=_age, reverse=True)


def _age(path: Path) -> tuple[int, int]:
    """The step of a checkpoint, and its number among those of this step."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 1)


def _free_name(folder: Path, step: int) -> str:
    last = max((number for at, number in map(_age, _newest_first(folder)) if at == step), default=0)
    return f"step-{step:08d}" + (f"-{last + 1}" if last else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
