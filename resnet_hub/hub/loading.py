"""Loading a published model: from a folder, from a run's folder, or from the Hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from resnet_hub.downloads.download import CONFIG_FILE, PICKLES, WEIGHTS_FILE, fetch, pin, remember
from resnet_hub.errors import HubError, nearest
from resnet_hub.files import expanded
from resnet_hub.hub.config_file import ModelConfig, read_config
from resnet_hub.hub.weights import SUM_KEY, read_weights
from resnet_hub.models.names import hub_repository, local_folder

_FILLS = frozenset(
    {
        *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_),
        *(init.normal_, init.uniform_, init.constant_, init.kaiming_uniform_),
    }
)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that was loaded, and what its config.json says of it."""

    model: nn.Module
    config: ModelConfig


def load(source: str | Path, *, revision: str | None = None, cache_dir: Path | None = None) -> nn.Module:
    """The model of a folder, of a run (its `export/`) or of a Hub repository, in eval mode on the CPU.

    Its `pretrained_cfg` has `label_names` and the preprocessing that it was evaluated with; its `multi_label`
    says whether its outputs are labels of their own or classes that exclude each other. Only safetensors
    are read, config.json can only choose known architectures and options, and every weight has to be there.
    Files of the Hub are compared with the sums that it declares, also those that come from the cache.

    Args:
        source: a folder, or `owner/name` on the Hub, which may end in `@revision` and begin with `hf-hub:`.
        revision: branch, tag or commit of a Hub repository; a full commit id that is cached asks nobody.
        cache_dir: the cache of Hub files, huggingface_hub's by default.

    Raises:
        HubError: there is nothing of the kind, or what is there cannot be trusted.
    """
    return load_with_config(source, revision=revision, cache_dir=cache_dir).model


def load_with_config(
    source: str | Path, *, revision: str | None = None, cache_dir: Path | None = None
) -> LoadedModel:
    """What `load` gives, with the checked config.json beside the model."""
    folder = local_folder(source)
    if folder is not None:
        if revision is not None:
            raise HubError(
                f"{source} is a folder, and a folder has no revisions. hf-hub:{source} is the Hub's."
            )
        return load_files(folder / CONFIG_FILE, folder / WEIGHTS_FILE, source=str(source))
    refuse_file(source)
    cache_dir = cache_dir and expanded(cache_dir)
    repo_id, named_revision = hub_repository(source)
    try:
        pinned = pin(repo_id, revision=revision or named_revision, cache_dir=cache_dir)
    except HubError as error:
        raise _no_folder_either(Path(repo_id), error) from error
    config = fetch(pinned, CONFIG_FILE, cache_dir=cache_dir)
    weights = fetch(pinned, WEIGHTS_FILE, cache_dir=cache_dir)
    remember(pinned, cache_dir=cache_dir)
    loaded = load_files(config.path, weights.path, source=repo_id, data=weights.data)
    loaded.model.pretrained_cfg |= {"hf_hub_id": f"{repo_id}@{pinned.commit}", "source": "hf-hub"}  # pyright: ignore
    return loaded


def refuse_file(source: str | Path) -> None:
    """Raise HubError, with what to do, for a file that was given in place of a folder or repository."""
    file = expanded(str(source))
    if file.is_file() or (len(file.parts) == 1 and file.name.endswith(PICKLES)):
        raise _no_model_folder(file)


def _no_model_folder(file: Path) -> HubError:
    if file.name.endswith(PICKLES):
        folder = file.name.partition(".")[0]
        return HubError(
            f"{file} is a pickle, which may run any code when it is read, so it is never opened here. If you "
            f"trust it, type model.load_state_dict(torch.load({str(file)!r}, weights_only=True)) and "
            f"resnet_hub.save_folder(model, {folder!r}, class_names=[...]), and load {folder!r}."
        )
    if file.suffix == ".safetensors" and not (file.parent / CONFIG_FILE).is_file():
        return HubError(
            f"{file} holds weights, and no {CONFIG_FILE} beside it tells of which network and classes. Load "
            "them into a model (safetensors.torch.load_model) and write the folder: resnet_hub.save_folder."
        )
    return HubError(
        f"{file} is a file, and a model is a folder of {CONFIG_FILE} and {WEIGHTS_FILE}. Name that folder."
    )


def _no_folder_either(folder: Path, error: HubError) -> HubError:
    """The error with what a person may have meant, if the name could be that of a folder here."""
    if len(folder.parts) == 1 or not folder.parent.is_dir():
        return error
    inside = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()]
    hint = f"In {folder.parent}: {nearest(folder.name, inside)}" if inside else f"{folder.parent} has none."
    return HubError(f"There is no folder {folder}. {hint} As a repository of the Hub: {error}")


def load_files(
    config_path: Path, weights_path: Path, *, source: str, data: bytes | None = None
) -> LoadedModel:
    """The model of two files on the disk; `data` has the bytes of the weights if they were read."""
    config, model, tensors = _checked_files(config_path, weights_path, source=source, data=data)
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    model.load_state_dict({**counters, **_float32(tensors)}, assign=True)
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        model = _build(config, source=source, device="cpu")  # it has buffers that are computed and not stored
        model.load_state_dict(tensors)
    model.multi_label = config.extra.get("multi_label") is True  # pyright: ignore[reportArgumentType]
    return LoadedModel(model=model.eval(), config=config)


def check_files(config_path: Path, weights_path: Path, *, source: str) -> None:
    """Raise HubError unless the two files make a model."""
    _checked_files(config_path, weights_path, source=source)


def _checked_files(
    config_path: Path, weights_path: Path, *, source: str, data: bytes | None = None
) -> tuple[ModelConfig, nn.Module, dict[str, torch.Tensor]]:
    """What config.json says, its network without memory, and the tensors, which fit it and are finite."""
    config = read_config(config_path, source=source)
    if not weights_path.is_file():
        raise _no_safetensors(weights_path.parent, source=source)
    noted = config.extra.get(SUM_KEY) if data is None else None  # of the Hub's files it declares the sum
    sha256 = None if noted is None else str(noted)
    model = build_empty(config, source=source)
    return config, model, read_weights(weights_path, model, source=source, data=data, sha256=sha256)


def build_empty(config: ModelConfig, *, source: str) -> nn.Module:
    """The network of a config.json without memory for its weights.

    On the meta device nothing is allocated, so that a hostile config.json cannot fill the memory before the
    weights have shown that they fit it; and nothing is initialized only to be overwritten.
    """
    with _NothingDrawn():
        return _build(config, source=source, device="meta")


class _NothingDrawn(TorchFunctionMode):
    """While it lasts, weights on the meta device are not drawn: there is no memory to fill."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if func in _FILLS and isinstance(tensor, torch.Tensor) and tensor.is_meta:
            return tensor
        return func(*args, **kwargs)


def _float32(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with 16-bit floats widened, as loading into a new model would do."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def _build(config: ModelConfig, *, source: str, device: str) -> nn.Module:
    cfg = {
        **config.pretrained_cfg,
        "num_classes": config.num_classes,
        "label_names": config.label_names,
        "architecture": config.architecture,
        **({"license": config.license_id} if config.license_id else {}),
    }
    base = timm.get_pretrained_cfg(config.architecture)
    heads = {} if base is None else {"classifier": base.classifier, "first_conv": base.first_conv}
    try:
        return timm.create_model(
            config.architecture,
            pretrained_cfg={**heads, **cfg},
            num_classes=config.num_classes,
            device=device,
            **config.model_args,
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        raise HubError(
            f"Cannot use {source}: {config.architecture!r} cannot be built with the options of its "
            f"{CONFIG_FILE} "
            f"({', '.join(config.model_args) or 'none'}): {str(error)[:200]}"
        ) from error


def _no_safetensors(folder: Path, *, source: str) -> HubError:
    pickles = (
        sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES) if folder.is_dir() else []
    )
    if pickles:
        return HubError(
            f"Cannot use {source}: its weights are only there as a pickle ({pickles[0]}), which may run any "
            f"code when "
            f"it is read. Only {WEIGHTS_FILE} is read; ask its author to publish one (save_folder writes it)."
        )
    return HubError(f"Cannot use {source}: it has no {WEIGHTS_FILE}.")
