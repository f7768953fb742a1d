"""Models of the family in the tools that take models of timm: transformers, torchvision, and others."""

import shlex
import subprocess
import sys
from pathlib import Path

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


# Does what timm's scripts do with a model, which are not in its package.
SCRIPT = """
import argparse
from timm.data import resolve_data_config
from timm.models import create_model, is_model

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--model")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("--fullname", action="store_true")
words = parser.parse_args()
assert is_model("my_resnet50")
model = create_model(words.model, pretrained=words.pretrained)
print(type(model).__name__, model.num_classes, resolve_data_config(vars(words), model=model)["input_size"])
"""


@pytest.mark.parametrize("script", ["validate.py", "inference.py"])
def test_the_line_of_the_guide_gives_timms_scripts_our_models(script: str, tmp_path: Path):
    guide = (Path(__file__).parents[1] / "recipes/README.md").read_text()
    (line,) = (line for line in guide.splitlines() if f"run_path('pytorch-image-models/{script}'" in line)
    (tmp_path / "pytorch-image-models").mkdir()
    (tmp_path / "pytorch-image-models" / script).write_text(SCRIPT)
    model = resnet_hub.create_model("my_resnet20", num_classes=2)
    resnet_hub.save_folder(model, tmp_path / "runs/pets/export", class_names=["cat", "dog"])
    (python, *words) = shlex.split(line)
    assert python == "python"
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=2) == ["MyResNet", "2", "(3, 32, 32)\n"]
