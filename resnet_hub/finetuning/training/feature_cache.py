"""Features of images in a folder, known by what is in the images and by all that computed them.

A file holds the features of some images beside the digests of these images, as safetensors, with a sum over
both in its header. Any run that computes the same features finds each image by its digest, whatever split it
is in now and in whatever order: another split, another fold, or other labels need no image again.

Features are those of the run that computed them, so they agree with newly computed ones to the rounding of
the device and not to the bit: in a batch of another size the last bit may be another.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from resnet_hub.cache_store import CacheStore
from resnet_hub.finetuning.data.inspection import DIGEST_BYTES

logger = logging.getLogger(__name__)

Digests = NDArray[np.bytes_]
"""Of encoded images, in hexadecimal: see `Inspection`."""


class FeatureCache:
    """A folder of features; two processes may use it at once."""

    def __init__(self, folder: Path | None, *, limit_bytes: float) -> None:
        """Keep so many bytes of features in `folder`, or nothing without one."""
        self._store = None if folder is None else CacheStore(folder, "features", limit_bytes=limit_bytes)

    def recall(self, key: str, digests: Digests, into: Tensor) -> NDArray[np.bool_]:
        """Fill in the features of the images that are known; returns which ones these are, (images,).

        Args:
            key: What computes the features, see `key_of`.
            digests: Of each image.
            into: (images, features), float32 on the CPU; rows of unknown images stay as they are.
        """
        known = np.zeros(len(digests), dtype=np.bool_)
        if self._store is None or not len(digests):
            return known
        order = np.argsort(digests, kind="stable")
        wanted = digests[order]
        for path in self._store.paths_of(key):
            if known.all():
                break
            kept = _read(path, wanted)
            if kept is None or kept.features.shape[1:] != into.shape[1:]:
                continue
            self._store.mark_used(path)
            # Equal images have equal digests, and all of them are known then.
            first, last = (np.searchsorted(wanted, kept.digests, side=side) for side in ("left", "right"))
            counts = last - first
            rows = np.repeat(np.arange(len(counts)), counts)
            ends = np.cumsum(counts)
            places = order[np.repeat(first, counts) + np.arange(len(rows)) - np.repeat(ends - counts, counts)]
            into[torch.from_numpy(places)] = kept.features[torch.from_numpy(rows)]
            known[places] = True
        return known

    def keep(self, key: str, digests: Digests, features: Tensor) -> bool:
        """Remember the features of some images; False where that cannot be done, after saying why.

        What is not kept costs a later run the same computation again.
        """
        if self._store is None or not len(digests):
            return True
        path = self._store.path(key, hashlib.sha256(digests.tobytes()).hexdigest()[:40])
        data = _as_bytes(_Kept(digests=digests, features=features))
        try:
            if self._store.make_room({path: len(data)}):
                self._store.write(path, data)
                return True
            reason = "it is full (--feature_cache_gb)"
        except OSError as error:
            reason = str(error)
        logger.warning("The feature cache takes no more, so some features are computed each time: %s", reason)
        return False


def digest_of_backbone(network: nn.Module) -> str:
    """A digest of the weights and layers of a network without its classifier.

    Equal networks give the same one on any number of processes.
    """
    digest = hashlib.sha256()
    classifier: nn.Module = network.get_classifier()  # pyright: ignore[reportCallIssue, reportAssignmentType]
    left_out: set[str] = set()
    for name, module in network.named_modules():
        if module is classifier:
            left_out |= {f"{name}.{own}" for own in module.state_dict()}
        else:  # what `str(network)` shows, and synchronised BatchNorm as the plain one that it computes here
            kind = type(module).__name__.removeprefix("Cpu").removeprefix("Sync").replace("Norm2d", "Norm")
            digest.update(f"{name} {kind} {module.extra_repr()}\n".encode())
    for name, tensor in network.state_dict().items():
        if name not in left_out:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def key_of(computed_with: Mapping[str, Any]) -> str:
    """A name for all that decides about the features of an image besides the image."""
    return hashlib.sha256(json.dumps(computed_with, sort_keys=True).encode()).hexdigest()[:40]


@dataclass(frozen=True, kw_only=True)
class _Kept:
    digests: Digests
    features: Tensor


def _read(path: Path, wanted: Digests) -> _Kept | None:
    """What a file holds if any of the wanted images, which are sorted, is in it and the file is undamaged."""
    try:
        with safe_open(path, framework="pt") as file:
            digests = np.frombuffer(
                file.get_tensor("digests").numpy().tobytes(), dtype=f"S{2 * DIGEST_BYTES}"
            )
            places = np.searchsorted(wanted, digests).clip(max=len(wanted) - 1)
            if not (wanted[places] == digests).any():
                return None
            kept = _Kept(digests=digests, features=file.get_tensor("features"))
            is_whole = (file.metadata() or {}).get("crc32") == _checksum(kept)
    except FileNotFoundError:  # another run has made room
        return None
    except (OSError, SafetensorError, ValueError) as error:
        logger.debug("cannot read %s: %s", path, error)
        is_whole, kept = False, None
    if is_whole:
        return kept
    logger.warning("%s is damaged; it is removed, and its features are computed anew.", path)
    with suppress(OSError):
        path.unlink()
    return None


def _as_bytes(kept: _Kept) -> bytes:
    digests = torch.from_numpy(np.frombuffer(kept.digests.tobytes(), dtype=np.uint8).copy())
    tensors = {"digests": digests, "features": kept.features.contiguous()}
    return save(tensors, metadata={"crc32": _checksum(kept)})


def _checksum(kept: _Kept) -> str:
    return f"{zlib.crc32(_bytes_of(kept.features), zlib.crc32(kept.digests.tobytes())):08x}"


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in the order of its indices."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]
