"""Confidence that comes true has no calibration error; the error is the gap where it does not."""

import numpy as np
import pytest

from resnet_hub.finetuning.report.reliability import expected_calibration_error, reliability_bins


def test_a_model_that_is_as_right_as_it_is_sure_has_no_error():
    bins = reliability_bins(np.full(10, 0.8), np.arange(10) < 8)
    assert expected_calibration_error(bins) == pytest.approx(0, abs=1e-12)


def test_the_error_is_the_gap_weighted_by_images():
    confidence = np.array([0.95] * 6 + [0.55] * 4)
    is_right = np.array([True] * 3 + [False] * 3 + [True] * 4)
    bins = reliability_bins(confidence, is_right)
    assert [(found.num_images, found.accuracy) for found in bins] == [(4, 1.0), (6, 0.5)]
    assert expected_calibration_error(bins) == pytest.approx(0.4 * 0.45 + 0.6 * 0.45)


def test_every_image_is_in_one_bin_from_nothing_to_certainty():
    confidence = np.array([0.0, 1 / 15, 0.5, 1.0])
    bins = reliability_bins(confidence, np.ones(4, bool))
    assert sum(found.num_images for found in bins) == 4
    assert (bins[0].num_images, bins[-1].high) == (2, 1.0)  # a limit belongs to the bin below it
