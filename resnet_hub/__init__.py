"""A family of ResNets as first-class timm models, and recipes that fine-tune, measure and publish them.

Importing the package registers the family in timm and does nothing else. The way through it:

    architecture.py   the network            hub/          folders and the Hub: save, load, publish
    my_resnet.py      the family in timm     predict.py    from images to labels
    pretrained.py     the tables of weights  finetuning/   from a data set to a model; the story is run.py
"""

from importlib.metadata import version

import timm
from timm import create_model

from resnet_hub import my_resnet as _family
from resnet_hub.architecture import MyResNet
from resnet_hub.hub import load, save_folder
from resnet_hub.predict import classify, classify_all

__all__ = ["MyResNet", "classify", "classify_all", "create_model", "list_models", "load", "save_folder"]

__version__ = version("resnet_hub")


def list_models(*, pretrained: bool = False) -> list[str]:
    """Names of the family's models; with `pretrained` those of its weights, `my_resnet50.a1_in1k`."""
    return timm.list_models(module=_family.__name__.rpartition(".")[2], pretrained=pretrained)
