"""The weights that come in the package, each with a record of how it was made and of what it is good for."""

import json
from pathlib import Path
from typing import Any

from resnet_hub.models.published_weights import Weights

_FOLDER = Path(__file__).parent / "weights"
_HALF = (0.5, 0.5, 0.5)

PACKAGED: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        Weights(
            name="resnet20.formula_signs500",
            file="my_resnet20.formula_signs500.safetensors",
            license="apache-2.0",
            origin_url=None,
            paper_ids="arXiv:2101.08515",  # formula-driven supervised learning
            train_size=32,
            crop_pct=1.0,
            mean=_HALF,
            std=_HALF,
            num_classes=500,
            top1=None,
            top5=None,
        ),
    )
}
"""Name without the family's `my_`, with tag -> its weights, whose classes are those of a formula."""


def packaged_weights_of(architecture: str) -> list[Weights]:
    """The weights in the package for the variant `my_` + `architecture`, its default first."""
    return [weights for weights in PACKAGED.values() if weights.architecture == architecture]


def file_of(weights: Weights) -> Path:
    """The safetensors file of weights that come in the package."""
    assert weights.file is not None
    return _FOLDER / weights.file


def record_of(weights: Weights) -> dict[str, Any]:
    """How the weights were made (`made`, by recipes/pretrain.py) and what they were measured to be good for.

    The latter is `measured`, by recipes/benchmark_pretrained.py.
    """
    return json.loads(file_of(weights).with_suffix(".json").read_text(encoding="utf-8"))


def is_packaged(file: object) -> bool:
    """Whether this is the path of a file of weights in the package."""
    return isinstance(file, str) and Path(file).parent == _FOLDER
