"""Labelled images that a formula makes: drawn signs, each class a sign, each image another way to write it.

This follows formula-driven supervised learning (Kataoka et al., "Pre-training without Natural Images",
arXiv:2101.08515): classes are parameters of a formula, images are perturbations of them, and no photograph
and no label is collected. The formula is one of contours, which were found to teach more than fractals
("Replacing Labeled Real-Image Datasets with Auto-Generated Contours", arXiv:2206.09132; sums of sinusoids:
"Visual Atoms", arXiv:2303.01112); uneven backgrounds and noise are in the spirit of "Learning to See by
Looking at Noise", arXiv:2106.05963. Text and code are our own.

A sign has one to three strokes. A stroke is a curve whose coordinates are sums of sinusoids, or a polygon
through a few points of one; it is open, closed or filled. Each image draws it with other coefficients,
another slant, size, place, pen, colours, light, sharpness and noise.

How much an image differs from its sign is its difficulty, from 0 for bright ink in the middle of dark paper
to 1. Networks do not begin to learn where all images are hard, so a batch has a highest difficulty, and
each image has its own below it.

Image n of class c under a seed and a highest difficulty is a function of these four alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.float32]

_HARMONICS = 4
_MAX_STROKES = 3
_POINTS = 40  # of a curve; at 64 px a segment is then shorter than a pen is wide
_OVERSAMPLING = 2  # signs are drawn larger and averaged, which makes their edges smooth
_BLURS = (0.0, 0.0, 0.6, 1.0, 1.5, 2.2)  # standard deviations in pixels of a 32 px image


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """A curve: x and y are sums of sinusoids of t, which runs over a part of the circle or all of it."""

    coefficients: Floats
    """(2, 2 x harmonics): of cosines, then of sines, for x and for y."""
    offset: Floats
    """(2,): where its middle is."""
    angles: Floats
    """The values of t: many for a curve, few for a polygon."""
    is_filled: bool


Sign = tuple[Stroke, ...]


def make_sign(seed: int, category: int) -> Sign:
    """The strokes of a class."""
    rng = np.random.default_rng([seed, 0, category])
    num_strokes = 1 + int(rng.choice(_MAX_STROKES, p=(0.5, 0.35, 0.15)))
    return tuple(_make_stroke(rng, is_alone=num_strokes == 1) for _ in range(num_strokes))


def _make_stroke(rng: np.random.Generator, *, is_alone: bool) -> Stroke:
    falling = np.arange(1, _HARMONICS + 1, dtype=np.float32) ** rng.uniform(1.0, 2.5)
    size = 1.0 if is_alone else rng.uniform(0.3, 0.9)
    coefficients = size * rng.normal(size=(2, 2, _HARMONICS)).astype(np.float32) / falling
    is_closed = rng.random() < 0.3
    start, span = rng.uniform(0, 2 * np.pi), 2 * np.pi if is_closed else rng.uniform(0.4, 0.95) * 2 * np.pi
    num_points = int(rng.integers(2, 6)) if rng.random() < 0.3 else _POINTS
    return Stroke(
        coefficients=coefficients.reshape(2, 2 * _HARMONICS),
        offset=(np.zeros(2) if is_alone else rng.normal(0, 0.6, 2)).astype(np.float32),
        angles=np.linspace(start, start + span, num_points + is_closed, dtype=np.float32),
        is_filled=is_closed and rng.random() < 0.4,
    )


class Hand:
    """What makes one image differ from another of its class: random numbers, wider the harder it is."""

    def __init__(self, rng: np.random.Generator, hardest: float) -> None:
        self.rng = rng
        self.difficulty = hardest * rng.random()

    def uniform(self, low: float, high: float) -> float:
        """A number from `low`, which is the easiest, towards `high`."""
        return low + (high - low) * self.difficulty * self.rng.random()

    def either_way(self, most: float, shape: int | tuple[int, ...] | None = None) -> Any:
        """Numbers between -`most` and `most`."""
        return most * self.difficulty * self.rng.uniform(-1, 1, shape)

    def normal(self, deviation: float, shape: int | tuple[int, ...]) -> Floats:
        """Gaussian numbers, of that standard deviation for the hardest."""
        return np.float32(deviation * self.difficulty) * self.rng.standard_normal(shape, dtype=np.float32)


class FormulaImages:
    """Images of `num_categories` classes, (3, size, size) in uint8, made when they are asked for."""

    def __init__(self, *, num_categories: int, image_size: int, seed: int) -> None:
        self.num_categories = num_categories
        self.image_size = image_size
        self.seed = seed
        self._signs = [make_sign(seed, category) for category in range(num_categories)]
        self._blurs = np.stack([_blur_matrix(image_size, sigma * image_size / 32) for sigma in _BLURS])
        self._spread = _interpolation_matrix(4, image_size)

    def batch(
        self, categories: NDArray[np.integer], instances: NDArray[np.integer], *, hardest: float = 1.0
    ) -> NDArray[np.uint8]:
        """(batch, 3, size, size) in uint8: image `instances[i]` of class `categories[i]`."""
        pairs = list(zip(categories.tolist(), instances.tolist(), strict=True))
        hands = [Hand(np.random.default_rng([self.seed, 1, *pair]), hardest) for pair in pairs]
        ink = np.stack([self._draw(pair[0], hand) for pair, hand in zip(pairs, hands, strict=True)])
        blur = self._blurs[[int(hand.rng.integers(len(_BLURS))) for hand in hands]]
        ink = blur @ ink @ blur.transpose(0, 2, 1)
        looks = np.stack([self._light(hand) for hand in hands])  # (batch, 2, 3, size, size): paper and ink
        noise = np.stack([self._noise(hand) for hand in hands])
        images = looks[:, 0] + ink[:, None] * (looks[:, 1] - looks[:, 0]) + noise[:, None]
        return np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8)

    def _draw(self, category: int, hand: Hand) -> Floats:
        """(size, size) from 0 for paper to 1 for ink."""
        sign, side = self._signs[category], self.image_size * _OVERSAMPLING
        strokes = [_points(stroke, hand) for stroke in sign]
        everything = np.concatenate(strokes)
        low, high = everything.min(axis=0), everything.max(axis=0)
        size = 0.9 - hand.uniform(0, 0.4)
        matrix = _slant(hand) * (size / max(float((high - low).max()), 1e-3))
        place = 0.5 + hand.either_way(0.5 * (1 - size), 2)
        pen = max(1, round(hand.rng.uniform(0.04, 0.2) * side))
        image = Image.new("L", (side, side))
        draw = ImageDraw.Draw(image)
        for stroke, points in zip(sign, strokes, strict=True):
            corners = ((points - (low + high) / 2) @ matrix + place) * side
            xy = corners.ravel().tolist()
            if stroke.is_filled and len(corners) > 2:
                draw.polygon(xy, fill=255)
            draw.line(xy, fill=255, width=pen, joint="curve" if len(corners) < 8 else None)
        return np.asarray(image.reduce(_OVERSAMPLING), dtype=np.float32) / 255

    def _light(self, hand: Hand) -> Floats:
        """(2, 3, size, size): colours of paper and ink, each uneven over the image."""
        colours = np.array([[0.15], [0.85]], dtype=np.float32) + hand.either_way(0.25, (2, 3))
        if hand.rng.random() < 0.5:
            colours[:] = colours[:, :1]  # grey
        if hand.rng.random() < 0.5 * hand.difficulty:
            colours = 1 - colours  # dark on bright
        grids = hand.normal(0.15, (2, 1, 4, 4))
        return colours[:, :, None, None] + self._spread @ grids @ self._spread.T

    def _noise(self, hand: Hand) -> Floats:
        return hand.uniform(0, 0.1) * hand.rng.standard_normal((self.image_size,) * 2, dtype=np.float32)


def _points(stroke: Stroke, hand: Hand) -> Floats:
    """(points, 2): the stroke as it is written this time."""
    wobble = hand.normal(0.2, stroke.coefficients.shape) * np.abs(stroke.coefficients).mean()
    waves = np.arange(1, _HARMONICS + 1, dtype=np.float32)[:, None] * stroke.angles
    curve = (stroke.coefficients + wobble) @ np.concatenate([np.cos(waves), np.sin(waves)])
    return curve.T + stroke.offset + hand.normal(0.1, 2)


def _slant(hand: Hand) -> Floats:
    """(2, 2): turned by up to 25 degrees, sheared, and stretched along one axis."""
    angle, shear, stretch = hand.either_way(0.45), hand.either_way(0.4), np.exp(hand.either_way(0.3))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (turn @ np.array([[stretch, shear], [0, 1 / stretch]])).astype(np.float32)


def _blur_matrix(size: int, sigma: float) -> Floats:
    """(size, size): multiplied from both sides, a Gaussian blur."""
    if sigma == 0:
        return np.eye(size, dtype=np.float32)
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-(distance**2) / (2 * sigma**2))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _interpolation_matrix(small: int, large: int) -> Floats:
    """(large, small): multiplied from both sides, an enlargement by linear interpolation."""
    position = np.linspace(0, small - 1, large)[:, None]
    return np.maximum(0, 1 - np.abs(position - np.arange(small))).astype(np.float32)
