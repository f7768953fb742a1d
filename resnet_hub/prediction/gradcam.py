"""Where a model looks: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) by the package `grad-cam`."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from resnet_hub.errors import ModelError, naming_the_extra
from resnet_hub.images.preprocessing import Preprocessing


def gradcam_overlays(model: nn.Module, images: Tensor, preprocessing: Preprocessing) -> list[Image.Image]:
    """Grad-CAM pictures: each image as the model sees it, warm where it supports the most probable class.

    Args:
        model: A classifier of timm or of the family, in eval mode.
        images: uint8 (batch, channels, height, width), as `preprocessing` gives them.
        preprocessing: That of the model.
    """
    with naming_the_extra():
        from pytorch_grad_cam import GradCAM  # noqa: PLC0415
        from pytorch_grad_cam.utils.image import show_cam_on_image  # noqa: PLC0415

    parameter = next(model.parameters())
    with torch.enable_grad(), GradCAM(model=model, target_layers=[last_stage(model)]) as cam:
        inputs = preprocessing.normalize(images.to(parameter.device), dtype=parameter.dtype)
        maps: NDArray[np.float32] = cam(inputs.requires_grad_(), None)  # None: the most probable class
    model.zero_grad(set_to_none=True)
    colors = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).float().numpy() / 255
    overlays = (
        show_cam_on_image(image, heat, use_rgb=True) for image, heat in zip(colors, maps, strict=True)
    )
    return [Image.fromarray(overlay) for overlay in overlays]


def last_stage(model: nn.Module) -> nn.Module:
    """The last block of convolutions, whose feature maps are the deepest with spatial positions."""
    info: Any = getattr(model, "feature_info", None)
    if not info:
        raise ModelError(
            f"{type(model).__name__} has no feature_info, which Grad-CAM reads. Use a model of timm or "
            "of the family."
        )
    stage = model.get_submodule(info[-1]["module"])
    return stage[-1] if isinstance(stage, nn.Sequential) else stage
