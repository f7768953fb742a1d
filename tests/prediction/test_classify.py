"""Labels for images, from anything that holds an image, with the class names that travel with the model."""

import copy
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.utils import ModelEmaV2, ModelEmaV3
from torch.optim.swa_utils import AveragedModel

import resnet_hub
from resnet_hub.errors import ModelError
from resnet_hub.hub import save_folder
from resnet_hub.images.decoding import BadImageError
from resnet_hub.prediction.batches import predict_images
from resnet_hub.prediction.classify import predict_probabilities
from tests.hub_server.fixtures import publish

pytest_plugins = ["tests.hub_server.fixtures"]


@dataclass
class InMemory:
    """An image that has a name."""

    image: Image.Image
    name: str = "image"

    def read(self) -> bytes:
        file = io.BytesIO()
        self.image.save(file, "PNG")
        return file.getvalue()


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


@pytest.fixture
def half_frozen(model) -> torch.nn.Module:
    """A copy in training, with a frozen BatchNorm and a frozen stage."""
    network = copy.deepcopy(model).train()
    network.bn1.eval()
    network.layer1.eval()
    return network


def modes_of(network: torch.nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in network.named_modules()}


def test_a_model_in_training_is_evaluated_and_each_module_has_its_mode_back(model, half_frozen, image):
    before, weights = modes_of(half_frozen), copy.deepcopy(half_frozen.state_dict())
    assert resnet_hub.classify(half_frozen, image) == resnet_hub.classify(model, image)
    assert modes_of(half_frozen) == before
    assert len(set(before.values())) == 2
    assert all(torch.equal(weights[name], tensor) for name, tensor in half_frozen.state_dict().items())


def test_each_module_has_its_mode_back_after_an_error_too(half_frozen, image):
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    before = modes_of(half_frozen)
    half_frozen.layer2.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        resnet_hub.classify(half_frozen, image)
    with pytest.raises(BadImageError):
        resnet_hub.classify_all(half_frozen, [image, b"no image"])
    assert modes_of(half_frozen) == before


class LikeDDP(torch.nn.Module):
    """Holds a network as DistributedDataParallel does, and computes only with the others."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *_: object) -> torch.Tensor:
        raise AssertionError("waits for the other processes")


WRAPPINGS = {
    "compiled": torch.compile,
    "DataParallel": torch.nn.DataParallel,
    "DDP": LikeDDP,
    "averaged by torch": AveragedModel,
    "averaged by timm": ModelEmaV3,
    "averaged by older timm": ModelEmaV2,
    "compiled in DDP in an average": lambda network: AveragedModel(LikeDDP(torch.compile(network))),
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_a_wrapped_model_has_the_classes_and_preprocessing_of_the_one_inside(model, half_frozen, image, wrap):
    wrapped = wrap(half_frozen)
    before = modes_of(wrapped)
    assert resnet_hub.classify(wrapped, image) == resnet_hub.classify(model, image)
    assert modes_of(wrapped) == before
    (row,) = predict_images(wrapped, [InMemory(image)])
    assert list(row.predictions) == resnet_hub.classify(model, image)


@pytest.mark.parametrize("images", [[], (), iter([]), (path for path in [])])
def test_of_no_images_the_answer_is_an_empty_list(model, images):
    assert resnet_hub.classify_all(model, images) == []


def test_a_single_output_is_refused_unless_it_is_a_question_of_its_own(image):
    network = timm.create_model("my_resnet20", num_classes=1)
    network.pretrained_cfg["label_names"] = ["cat"]
    for images in ([image], []):
        with pytest.raises(ModelError, match="one output"):
            resnet_hub.classify_all(network, images)
    network.multi_label = True
    ((label, probability),) = resnet_hub.classify(network, image)
    assert label == "cat"
    assert 0 < probability < 1


@pytest.fixture
def imagenets(hub, tmp_path: Path) -> torch.nn.Module:
    """A network with weights that timm has published for ImageNet."""
    names = [str(number) for number in range(1000)]
    save_folder(timm.create_model("my_resnet18"), tmp_path / "base", class_names=names)
    publish(hub, tmp_path / "base", "timm/resnet18.a1_in1k")
    return timm.create_model("my_resnet18", pretrained=True)


def test_the_published_weights_of_imagenet_have_imagenets_classes(imagenets, image, hub):
    of_timm = timm.create_model("resnet18.a1_in1k", pretrained=True)
    loaded = resnet_hub.load("timm/resnet18.a1_in1k")
    del loaded.pretrained_cfg["label_names"]  # as timm's own repositories
    for network in (imagenets, of_timm, loaded, AveragedModel(of_timm), of_timm.to(torch.bfloat16)):
        found = resnet_hub.classify(network, image, top_k=1000)
        assert "goldfish" in " ".join(label for label, _ in found).lower()


def test_a_thousand_classes_that_are_not_imagenets_do_not_get_its_names(imagenets, image, tmp_path: Path):
    trained = copy.deepcopy(imagenets)
    trained(torch.rand(2, 3, 64, 64)).square().mean().backward()
    torch.optim.SGD(trained.parameters(), lr=0.1).step()
    new_fc = copy.deepcopy(imagenets)
    new_fc.reset_classifier(1000)
    own = tmp_path / "own.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), own)
    networks = {
        "random": timm.create_model("resnet18"),
        "random, of the family": timm.create_model("my_resnet18", num_classes=1000),
        "without published weights": timm.create_model("my_resnet32", num_classes=1000),
        "trained on": trained,
        "with another fc": new_fc,
        "a file of one's own": timm.create_model(
            "resnet18", pretrained=True, pretrained_cfg_overlay={"file": str(own)}
        ),
        "a checkpoint of one's own": timm.create_model("resnet18", checkpoint_path=str(own)),
    }
    for network in networks.values():
        with pytest.raises(ModelError, match="1000 classes and no class names"):
            resnet_hub.classify(network, image)


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
