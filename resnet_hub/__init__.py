"""A family of ResNets as first-class timm models, and recipes that fine-tune, measure and publish them.

Importing the package registers the family in timm and does nothing else. The way through it:

    architecture.py   the network            hub/          folders and the Hub: save, load, publish
    my_resnet.py      the family in timm     predict.py    from images to labels
    pretrained.py     the tables of weights  finetuning/   from a data set to a model; the story is run.py
"""

from importlib.metadata import version

import timm
from timm import create_model

from resnet_hub.architecture import MyResNet, Variant
from resnet_hub.hub import download, ensure_pretrained_weights, load, push_folder, save_folder
from resnet_hub.my_resnet import register_variant
from resnet_hub.optimize import optimize_for_inference
from resnet_hub.predict import classify, classify_all
from resnet_hub.timm_build import use_weights_finder

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

__version__ = version("resnet_hub")

use_weights_finder(ensure_pretrained_weights)


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names of the family's models, your own included; with `pretrained` those of its weights, with tags."""
    return timm.list_models(module="my_resnet", pretrained=pretrained)
