"""Predict with any trained model: open it, find images, label them, see where it looks."""

from resnet_hub.prediction.batches import ImagePrediction, best_device, predict_images
from resnet_hub.prediction.inputs import ImageInput, find_images
from resnet_hub.prediction.open_model import open_model

__all__ = ["ImageInput", "ImagePrediction", "best_device", "find_images", "open_model", "predict_images"]
