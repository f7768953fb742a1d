"""Models of the family in the tools that take models of timm: transformers, torchvision, and others."""

import pytest
import torch
import transformers
from torchvision.models.feature_extraction import create_feature_extractor

import resnet_hub

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_torchvision_extracts_the_features_that_timm_gives():
    model = resnet_hub.create_model("my_resnet34").eval()
    extractor = create_feature_extractor(model, {"layer2": "middle", "layer4": "last"})
    maps = extractor(IMAGES)
    wanted = model.forward_intermediates(IMAGES, [2, 4], intermediates_only=True)
    assert torch.equal(maps["middle"], wanted[0])
    assert torch.equal(maps["last"], wanted[1])


def test_transformers_takes_a_variant_as_a_backbone():
    config = transformers.TimmBackboneConfig(backbone="my_resnet34", out_indices=[1, 2, 3, 4])
    backbone = transformers.TimmBackbone(config).eval()
    model = resnet_hub.create_model("my_resnet34").eval()
    missing, extra = model.load_state_dict(backbone._backbone.state_dict(), strict=False)
    assert (sorted(missing), extra) == (["fc.bias", "fc.weight"], [])
    maps = backbone(IMAGES).feature_maps
    wanted = model.forward_intermediates(IMAGES, [1, 2, 3, 4], intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(maps, wanted, strict=True))
    assert backbone.channels == [64, 128, 256, 512]
    maps[-1].mean().backward()
    assert all(weight.grad is not None for weight in backbone.parameters())


@pytest.mark.parametrize("output_stride", [8, 16])
def test_segmentation_models_pytorch_takes_a_variant_as_an_encoder(output_stride):
    import segmentation_models_pytorch as smp

    model = smp.DeepLabV3Plus(
        "tu-my_resnet34", encoder_weights=None, classes=3, encoder_output_stride=output_stride
    ).eval()
    assert model(IMAGES).shape == (2, 3, 64, 64)
    model = smp.Unet("tu-my_resnet34", encoder_weights=None, classes=3)
    model(IMAGES).mean().backward()
    assert all(weight.grad is not None for weight in model.encoder.parameters())
