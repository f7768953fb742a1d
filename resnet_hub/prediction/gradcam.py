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
    colors = images.cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).float().numpy() / 255
    heat = _heat_maps(model, images, preprocessing)
    return [_colored(warmth, image) for warmth, image in zip(heat, colors, strict=True)]


def gradcam_over_photo(model: nn.Module, photo: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """The whole photo at its own size, colored by Grad-CAM where the model sees it.

    Args:
        model: As for `gradcam_overlays`.
        photo: In the mode of `preprocessing`.
        preprocessing: That of the model.
    """
    (warmth,) = _heat_maps(model, preprocessing(photo)[None], preprocessing)
    height, width = warmth.shape
    left, top, right, bottom = preprocessing.crop_box(photo.size)
    across, down = width / (right - left), height / (bottom - top)  # pixels of the map per pixel of the photo
    colors = _colored(warmth, np.zeros((height, width, 3), np.float32), image_weight=0.0)
    placed = colors.transform(
        photo.size,
        Image.Transform.AFFINE,
        (across, 0, -left * across, 0, down, -top * down),
        Image.Resampling.BILINEAR,
    )
    is_seen = Image.new("L", photo.size)
    is_seen.paste(255, (round(left), round(top), round(right), round(bottom)))
    plain = photo.convert("RGB")
    return Image.composite(Image.blend(plain, placed, 0.5), plain, is_seen)


def _heat_maps(model: nn.Module, images: Tensor, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(batch, height, width) from 0 to 1: how much each place supports the most probable class."""
    with naming_the_extra():
        from pytorch_grad_cam import GradCAM  # noqa: PLC0415

    parameter = next(model.parameters())
    with torch.enable_grad(), GradCAM(model=model, target_layers=[last_stage(model)]) as cam:
        inputs = preprocessing.normalize(images.to(parameter.device), dtype=parameter.dtype)
        maps: NDArray[np.float32] = cam(inputs.requires_grad_(), None)  # None: the most probable class
    model.zero_grad(set_to_none=True)
    return maps


def _colored(
    warmth: NDArray[np.float32], image: NDArray[np.float32], *, image_weight: float = 0.5
) -> Image.Image:
    from pytorch_grad_cam.utils.image import show_cam_on_image  # noqa: PLC0415

    return Image.fromarray(show_cam_on_image(image, warmth, use_rgb=True, image_weight=image_weight))


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
