"""Model folders and the Hub: save, load, download, publish; verified, and usable without this package."""

from resnet_hub.hub.download import download, ensure_pretrained_weights
from resnet_hub.hub.export import save_folder
from resnet_hub.hub.loading import load, local_folder
from resnet_hub.hub.push import PushRecord, push_folder

__all__ = [
    "PushRecord",
    "download",
    "ensure_pretrained_weights",
    "load",
    "local_folder",
    "push_folder",
    "save_folder",
]
