"""Model folders and the Hub: save, load, download, publish; verified, and usable without this package."""

from resnet_hub.downloads.download import download
from resnet_hub.hub.loading import load
from resnet_hub.hub.push import PushRecord, is_on_hub, may_be_public, push_folder
from resnet_hub.hub.saving import current_card, refresh_card, save_folder

__all__ = [
    "PushRecord",
    "current_card",
    "download",
    "is_on_hub",
    "load",
    "may_be_public",
    "push_folder",
    "refresh_card",
    "save_folder",
]
