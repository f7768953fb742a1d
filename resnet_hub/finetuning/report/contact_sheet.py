"""A picture of a batch, as the network gets it."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

_COLUMNS = 8
_SMALLEST_SHOWN = 64  # pixels; smaller images are enlarged by a whole factor


def draw_batch(images: Tensor, *, at_most: int = 64) -> Image.Image:
    """The first images of a batch side by side, in rows of eight.

    Args:
        images: uint8 (batch, channels, height, width), before normalisation, as `Batch.images` are.
        at_most: Number of images shown.
    """
    grid = make_grid(images[:at_most], nrow=min(_COLUMNS, len(images)), padding=2, pad_value=255)
    picture = to_pil_image(grid.to(torch.uint8))
    scale = max(1, _SMALLEST_SHOWN // images.shape[-1])
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
