"""Model folders and the Hub: save, load, download, publish; verified, and usable without this package."""

from resnet_hub.hub.export import save_folder
from resnet_hub.hub.loading import load

__all__ = ["load", "save_folder"]
