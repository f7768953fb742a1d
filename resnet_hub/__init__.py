"""A family of ResNets as first-class timm models, and recipes that fine-tune, measure and publish them.

Importing the package registers the family in timm, now or as soon as timm is imported, and does nothing else:
torch and timm are imported by the first use of a name below. The way through it:

    models/     the networks, their place in timm, their weights    images/      from files to tensors
    downloads/  from the Hub                                        hub/         folders and repositories
    cards/      model cards                                         formats/     ONNX and torch.export
    prediction/ from images to labels                               finetuning/  from a data set to a model
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resnet_hub.timm_hook import when_timm_is_imported

if TYPE_CHECKING:
    from timm import create_model

    from resnet_hub.downloads.download import download
    from resnet_hub.hub import load, push_folder, save_folder
    from resnet_hub.models.architecture import MyResNet, Variant
    from resnet_hub.models.my_resnet import register_variant
    from resnet_hub.models.optimize import optimize_for_inference
    from resnet_hub.models.registration import list_models
    from resnet_hub.prediction.classify import classify, classify_all

    __version__: str

__all__ = [
    "MyResNet",
    "Variant",
    "classify",
    "classify_all",
    "create_model",
    "download",
    "list_models",
    "load",
    "optimize_for_inference",
    "push_folder",
    "register_variant",
    "save_folder",
]

_PLACES = {
    "MyResNet": "resnet_hub.models.architecture",
    "Variant": "resnet_hub.models.architecture",
    "classify": "resnet_hub.prediction.classify",
    "classify_all": "resnet_hub.prediction.classify",
    "create_model": "timm",
    "download": "resnet_hub.downloads.download",
    "list_models": "resnet_hub.models.registration",
    "load": "resnet_hub.hub",
    "optimize_for_inference": "resnet_hub.models.optimize",
    "push_folder": "resnet_hub.hub",
    "register_variant": "resnet_hub.models.my_resnet",
    "save_folder": "resnet_hub.hub",
}


def __getattr__(name: str) -> Any:
    """A public name or a module of the package, imported at its first use (PEP 562)."""
    if name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
    elif name == "__version__":
        value = import_module("importlib.metadata").version(__name__)
    else:
        value = _submodule(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


def _submodule(name: str) -> Any:
    full_name = f"{__name__}.{name}"
    try:
        if not name.startswith("_"):
            return import_module(full_name)
    except ModuleNotFoundError as error:
        if error.name != full_name:
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)


when_timm_is_imported(lambda: import_module("resnet_hub.models.registration"))
