"""The weights of a model folder: safetensors only, contiguous, checked before memory is spent on them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from resnet_hub.downloads.download import CONFIG_FILE, WEIGHTS_FILE
from resnet_hub.errors import HubError, ModelError
from resnet_hub.models.strict_loading import misfits, unusable

SUM_KEY = "weights_sha256"
"""Key of config.json, below ours, that holds the sha256 of the weights beside it."""

_MAX_HEADER_BYTES = 16 * 2**20  # a ResNet-152 has 93 kB; safetensors itself allows 100 MB


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, out of DDP, `torch.compile` and averaged (EMA) models, however they nest."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module) or (
            not hasattr(model, "forward_features")
            and isinstance(inner := getattr(model, "module", None), nn.Module)
        ):
            model = inner
        else:
            return model


def write_weights(model: nn.Module, folder: Path) -> str:
    """Write model.safetensors, every tensor on the CPU, contiguous, and with its own memory; give its sha256.

    Raises:
        ModelError: a weight is not a finite number; such a model cannot be of use to anybody.
    """
    tensors = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True).contiguous()
        for name, tensor in model.state_dict().items()
    }
    _refuse_unusable(model, tensors, source="the model to be saved", kind=ModelError)
    safetensors.torch.save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return _sha256_of(folder / WEIGHTS_FILE)


def read_weights(
    path: Path, model: nn.Module, *, source: str, data: bytes | None = None, sha256: str | None = None
) -> dict[str, Tensor]:
    """The tensors of the file, after its header was found to list exactly the tensors of `model`.

    Args:
        path: the safetensors file.
        model: a network of the right shapes; it may be on the meta device.
        source: how messages call the folder or repository.
        data: the bytes of the file, if they were read already.
        sha256: of the file, as whoever wrote it noted; None to take it as it is.

    Raises:
        HubError: damaged or changed file, other names or shapes than the model's, or weights of a kind or
            value that no network of ours could compute with.
    """
    if found := misfits(model, tensor_shapes(path, source=source)):
        raise HubError(
            f"Cannot use {source}: its {WEIGHTS_FILE} does not fit the architecture that its config.json "
            f"names ({'; '.join(found)}). The two files do not belong together."
        )
    try:
        tensors = safetensors.torch.load_file(path) if data is None else safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(source, error) from None
    _refuse_unusable(model, tensors, source=source, kind=HubError)
    if sha256 is not None and (found := _sha256_of(path)) != sha256:
        raise HubError(
            f"Cannot use {source}: its {WEIGHTS_FILE} is not the file that was written there (sha256 "
            f"{found[:12]}..., noted was {sha256[:12]!r}...). Get it again; if it was changed on purpose, "
            f'delete the line "{SUM_KEY}" from its {CONFIG_FILE}.'
        )
    return tensors


def _sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tensor_shapes(path: Path, *, source: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor, from the header alone; HubError when the file is not safetensors."""
    try:
        with path.open("rb") as stream:
            return _read_header(stream, size=path.stat().st_size)
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(source, error) from None


def _read_header(stream: BinaryIO, *, size: int) -> dict[str, tuple[int, ...]]:
    length = int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    header = json.loads(stream.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is not an object")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if not isinstance(shape, list) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise ValueError(f"no shape is given for {name[:80]!r}")
        shapes[name] = tuple(shape)
    return shapes


def _refuse_unusable(
    model: nn.Module, tensors: Mapping[str, Tensor], *, source: str, kind: type[Exception]
) -> None:
    if found := unusable(model, tensors):
        raise kind(
            f"Cannot use {source}: {'; '.join(found)}. Such a model answers NaN or nothing of sense to every "
            f"image; take an earlier checkpoint."
        )


def _damaged(source: str, error: Exception) -> HubError:
    return HubError(f"Cannot use {source}: its {WEIGHTS_FILE} is damaged ({str(error)[:200]}). Get it again.")
