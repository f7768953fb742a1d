"""Are 90 % of the answers given with 90 % confidence right? Reliability bins and their expected error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15  # of equal width, as in the paper


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """The images whose highest probability lies between `low` (not included) and `high`."""

    low: float
    high: float
    num_images: int
    confidence: float
    """Mean of the highest probability."""
    accuracy: float
    """Share that is right."""


def reliability_bins(
    confidence: NDArray[np.floating], is_right: NDArray[np.bool_], *, num_bins: int = NUM_BINS
) -> tuple[ReliabilityBin, ...]:
    """The bins that have images, from low to high confidence (Guo et al. 2017, arXiv:1706.04599)."""
    places = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return tuple(
        ReliabilityBin(
            low=place / num_bins,
            high=(place + 1) / num_bins,
            num_images=int((places == place).sum()),
            confidence=float(confidence[places == place].mean()),
            accuracy=float(is_right[places == place].mean()),
        )
        for place in np.unique(places).tolist()
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """ECE: the mean gap between confidence and accuracy over the bins, weighted by their images."""
    total = sum(found.num_images for found in bins)
    return sum(found.num_images / total * abs(found.accuracy - found.confidence) for found in bins)
