"""The width that the rule of the learning rate goes by is read from the network."""

import pytest
import timm

import resnet_hub  # noqa: F401  registers the family in timm
from resnet_hub.finetuning.network.build import width_of


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("my_resnet20", 64),
        ("my_resnet18", 512),
        ("my_resnet50", 512),
        ("resnet18.a1_in1k", 512),
        ("my_wide_resnet50_2", 1024),
        ("my_ecaresnet26t", 512),
    ],
)
def test_the_width_is_that_of_the_last_spatial_convolution(name: str, width: int):
    assert width_of(timm.create_model(name, pretrained=False)) == width
