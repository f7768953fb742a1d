"""A small network that tells three colors apart, its folder, and pictures of the colors."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import resnet_hub
from resnet_hub.images.preprocessing import Preprocessing

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def photo(name: str, number: int) -> Image.Image:
    noise = np.random.default_rng([number, *map(ord, name)]).integers(-40, 40, (40, 48, 3))
    return Image.fromarray(np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def color_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen noisy pictures of each of three colors."""
    folder = tmp_path_factory.mktemp("photos")
    for name in COLORS:
        for number in range(16):
            photo(name, number).save(folder / f"{name}{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def color_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a small network that has learned the three colors."""
    torch.manual_seed(0)
    model = timm.create_model("my_resnet20", num_classes=len(COLORS))
    preprocessing = Preprocessing.of_model(model)
    images = [preprocessing(photo(name, 100 + number)) for number in range(8) for name in COLORS]
    pixels, labels = preprocessing.normalize(torch.stack(images)), torch.arange(3).repeat(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(12):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("model") / "colors"
    return resnet_hub.save_folder(model.eval(), path, class_names=list(COLORS))
