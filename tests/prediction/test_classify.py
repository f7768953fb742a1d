"""Labels for images, from anything that holds an image, with the class names that travel with the model."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import resnet_hub
from resnet_hub.errors import ModelError
from resnet_hub.prediction.classify import predict_probabilities


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    made = timm.create_model("my_resnet20", num_classes=4).eval()
    made.pretrained_cfg["label_names"] = ["ant", "bee", "cat", "dog"]
    return made


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def test_the_best_class_comes_first_and_probabilities_add_up_to_one(model, image):
    found = resnet_hub.classify(model, image)
    assert [label for label, _ in found] != []
    assert sum(share for _, share in found) == pytest.approx(1, abs=1e-5)
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)


def test_a_path_bytes_and_an_image_are_the_same(model, image, tmp_path: Path):
    path = tmp_path / "image.png"
    image.save(path)
    expected = resnet_hub.classify(model, image)
    assert resnet_hub.classify(model, path) == expected
    assert resnet_hub.classify(model, str(path)) == expected
    assert resnet_hub.classify(model, path.read_bytes()) == expected


def test_probabilities_are_those_of_timms_own_transform(model, image):
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model, use_test_size=True))
    with torch.inference_mode():
        expected = model(transform(image).unsqueeze(0)).softmax(dim=1)
    assert torch.allclose(predict_probabilities(model, [image]), expected, atol=1e-6)


def test_a_model_in_training_is_evaluated_and_goes_on_training(model, image):
    expected = resnet_hub.classify(model, image)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    assert resnet_hub.classify(model, image) == expected
    assert model.training
    model.eval()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_an_imagenet_model_without_names_gets_imagenets(image):
    found = resnet_hub.classify(timm.create_model("my_resnet20", num_classes=1000), image, top_k=1000)
    assert "goldfish" in " ".join(label for label, _ in found).lower()


def test_a_model_without_class_names_says_how_to_get_them(image):
    with pytest.raises(ModelError, match="label_names"):
        resnet_hub.classify(timm.create_model("my_resnet20", num_classes=7), image)


def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(image, tmp_path: Path):
    made = timm.create_model("my_resnet20", num_classes=3)
    with torch.no_grad():
        made.get_classifier().bias.fill_(4.0)
    resnet_hub.save_folder(made, tmp_path / "export", class_names=["a", "b", "c"])
    config = json.loads((tmp_path / "export/config.json").read_text())
    config["resnet_hub"]["multi_label"] = True
    (tmp_path / "export/config.json").write_text(json.dumps(config))
    found = resnet_hub.classify(resnet_hub.load(tmp_path / "export"), image)
    assert sum(share for _, share in found) > 1.5
