"""The network as it is exported: with or without its preprocessing, in any precision."""

import copy

import torch
from torch import Tensor, nn

from resnet_hub.formats.kinds import Precision
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import probabilities

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class ExportedNetwork(nn.Module):
    """A copy of a network that takes normalized float32 images, or uint8 images, and gives float32.

    Without preprocessing: (batch, channels, height, width) normalized float32 -> logits.
    With it: (batch, height, width, channels) uint8, resized and cropped -> probabilities and logits.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, *, precision: Precision, with_preprocessing: bool) -> None:
        super().__init__()
        self.preprocessing = Preprocessing.of_model(model)
        self.with_preprocessing = with_preprocessing
        self.multi_label = bool(getattr(model, "multi_label", False))
        # int8 is made of the float32 file, by quantizing it.
        self.dtype = _DTYPES.get(precision, torch.float32)
        self.network = copy.deepcopy(model).cpu().eval().to(self.dtype).requires_grad_(False)
        for name in ("mean", "std"):  # of values from 0 to 255, shaped (1, channels, 1, 1)
            values = torch.tensor(getattr(self.preprocessing, name), dtype=torch.float64) * 255
            self.register_buffer(name, values.float().view(1, -1, 1, 1))

    @property
    def output_names(self) -> list[str]:
        """Names of the outputs, in order."""
        return ["probabilities", "logits"] if self.with_preprocessing else ["logits"]

    def prepare(self, pixels: Tensor) -> Tensor:
        """Inputs of the file, from resized and cropped uint8 images (batch, channels, height, width)."""
        if self.with_preprocessing:
            return pixels.permute(0, 2, 3, 1).contiguous()
        return self.preprocessing.normalize(pixels).contiguous()

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or probabilities and logits, (batch, num_classes) each."""
        if self.with_preprocessing:
            # The arithmetic of normalization is float32 in every precision. It has the form of OpenVINO's own
            # preprocessing: channels first, then subtract, then divide. Before a quantized layer OpenVINO
            # takes what follows a uint8 input for a dequantization, (x - zero point) * scale per channel, and
            # x * scale - offset with the channels last, which is equal, went wrong there.
            images = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits = self.network(images.to(self.dtype)).float()
        if not self.with_preprocessing:
            return logits
        return probabilities(logits, multi_label=self.multi_label), logits
