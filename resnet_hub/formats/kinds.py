"""The kinds of files that a model is exported to, and how far each may deviate. Standard library only."""

from dataclasses import dataclass
from typing import Literal

Container = Literal["onnx", "pt2"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    name: str
    """What `--formats` calls it."""
    container: Container
    """ONNX, or the archive of `torch.export.save`."""
    precision: Precision
    """Number format of weights and features; images and logits are float32 in all of them."""
    largest_deviation: float
    """Largest difference of a logit from the model's own, as a share of the model's largest logit, that is
    accepted."""
    least_agreement: float
    """Share of the images whose most probable class has to be the model's own."""

    @property
    def file_name(self) -> str:
        """`model.onnx`, `model_int8.onnx`: the names that exported models have on the Hub."""
        precision = "" if self.precision == "fp32" else f"_{self.precision}"
        return f"model{precision}.{self.container}"


# Limits (deviation, agreement): at least twice what the family's networks needed (recipes/LOG.md), so more
# is a fault and not rounding. bf16 is torch.export only: onnxruntime has no bf16 convolution for CPUs, so the
# file could not be compared. int8 is ONNX only, where it is fast without a compiler.
_EXACT, _FP16, _BF16, _INT8 = (1e-4, 1.0), (0.02, 0.98), (0.08, 0.95), (0.15, 0.95)
KINDS = {
    kind.name: kind
    for kind in (
        Kind("onnx", "onnx", "fp32", *_EXACT),
        Kind("onnx_fp16", "onnx", "fp16", *_FP16),
        Kind("onnx_int8", "onnx", "int8", *_INT8),
        Kind("pt2", "pt2", "fp32", *_EXACT),
        Kind("pt2_fp16", "pt2", "fp16", *_FP16),
        Kind("pt2_bf16", "pt2", "bf16", *_BF16),
    )
}
