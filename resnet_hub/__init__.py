"""A family of ResNets as first-class timm models, and recipes that fine-tune, measure and publish them.

Importing the package registers the family in timm, now or as soon as timm is imported, and does nothing else:
torch and timm are imported by the first use of a name below. The way through it:

    models/     the networks, their place in timm, their weights    images/      from files to tensors
    downloads/  from the Hub                                        hub/         folders and repositories
    cards/      model cards                                         formats/     ONNX and torch.export
    prediction/ from images to labels                               finetuning/  from a data set to a model
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from resnet_hub.errors import naming_the_extra
from resnet_hub.timm_hook import (
    IMPORTING,
    register_family_if_timm_is_there,
    register_family_with_timm,
)

if TYPE_CHECKING:  # the same names for editors and type checkers, which do not run this file
    from timm import create_model as create_model

    from resnet_hub.downloads.download import download as download
    from resnet_hub.errors import RunError as RunError
    from resnet_hub.errors import UserError as UserError
    from resnet_hub.finetuning.from_python import FinetuneResult as FinetuneResult
    from resnet_hub.finetuning.from_python import finetune as finetune
    from resnet_hub.finetuning.machine.preemption import Preempted as Preempted
    from resnet_hub.hub import load as load
    from resnet_hub.hub import push_folder as push_folder
    from resnet_hub.hub import save_folder as save_folder
    from resnet_hub.models.architecture import MyResNet as MyResNet
    from resnet_hub.models.architecture import Variant as Variant
    from resnet_hub.models.my_resnet import list_models as list_models
    from resnet_hub.models.my_resnet import register_variant as register_variant
    from resnet_hub.models.optimize import optimize_for_inference as optimize_for_inference
    from resnet_hub.prediction.classify import classify as classify
    from resnet_hub.prediction.classify import classify_all as classify_all

    __version__: str

_PLACES = {
    "FinetuneResult": "resnet_hub.finetuning.from_python",
    "MyResNet": "resnet_hub.models.architecture",
    "Preempted": "resnet_hub.finetuning.machine.preemption",
    "RunError": "resnet_hub.errors",
    "UserError": "resnet_hub.errors",
    "Variant": "resnet_hub.models.architecture",
    "classify": "resnet_hub.prediction.classify",
    "classify_all": "resnet_hub.prediction.classify",
    "create_model": "timm",
    "download": "resnet_hub.downloads.download",
    "finetune": "resnet_hub.finetuning.from_python",
    "list_models": "resnet_hub.models.my_resnet",
    "load": "resnet_hub.hub",
    "optimize_for_inference": "resnet_hub.models.optimize",
    "push_folder": "resnet_hub.hub",
    "register_variant": "resnet_hub.models.my_resnet",
    "save_folder": "resnet_hub.hub",
}

__all__ = list(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]  it reads the imports above


def __getattr__(name: str) -> Any:
    """A public name or a module of the package, imported at its first use (PEP 562)."""
    if name in _PLACES:
        with IMPORTING, naming_the_extra():
            value = getattr(import_module(_PLACES[name]), name)
            register_family_if_timm_is_there()
    elif name == "__version__":
        value = import_module("importlib.metadata").version(__name__)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})


register_family_with_timm()
