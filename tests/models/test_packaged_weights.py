"""The weights in the package: loaded with no network, the ones of the record, and made again to the bit."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import resnet_hub
from resnet_hub.models.my_resnet import published_weights
from resnet_hub.models.packaged_weights import PACKAGED, file_of, record_of

ROOT = Path(__file__).parents[2]
each_weights = pytest.mark.parametrize("weights", PACKAGED.values(), ids=lambda weights: weights.name)


@pytest.fixture
def recipes(monkeypatch):
    """The modules beside the scripts, as a script sees them; the number of threads is put back."""
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def new_images(weights, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """An image a class that no training saw, normalized as the configuration says, and their classes."""
    from formula_images import FormulaImages

    made = record_of(weights)["made"]["options"]
    images = FormulaImages(num_categories=weights.num_classes, image_size=size, seed=made["seed"])
    labels = np.arange(weights.num_classes)
    pixels = torch.from_numpy(images.batch(labels, 2**41 + np.arange(len(labels)))).float() / 255
    mean, std = torch.tensor(weights.mean)[:, None, None], torch.tensor(weights.std)[:, None, None]
    return (pixels - mean) / std, torch.from_numpy(labels)


@each_weights
def test_the_file_is_small_and_the_one_of_its_record(weights):
    content = file_of(weights).read_bytes()
    assert len(content) <= 2_000_000
    record = record_of(weights)["made"]
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    with safe_open(file_of(weights), framework="pt") as file:
        assert json.loads(file.metadata()["made_by"]) == record["options"]
    assert record["options"]["model"] == f"my_{weights.architecture}"
    assert record["options"]["categories"] == weights.num_classes
    assert record["options"]["image_size"] == weights.train_size


@each_weights
def test_the_log_has_the_sum_of_the_file(weights):
    assert record_of(weights)["made"]["sha256"] in (ROOT / "recipes/LOG.md").read_text(encoding="utf-8")


@each_weights
def test_with_no_network_the_model_is_the_trained_one(weights, recipes):
    model = timm.create_model(f"my_{weights.architecture}", pretrained=True).eval()
    assert model.pretrained_cfg["tag"] == weights.tag
    images, labels = new_images(weights, weights.train_size)
    with torch.inference_mode():
        found = model(images).argmax(dim=1)
    claimed = record_of(weights)["made"]["accuracy_percent"][str(weights.train_size)]
    assert 100 * (found == labels).float().mean().item() == pytest.approx(claimed, abs=5)


@each_weights
def test_another_number_of_classes_gets_a_new_fc_and_keeps_the_rest(weights):
    stored = load_file(file_of(weights))
    model = timm.create_model(f"my_{weights.name}", pretrained=True, num_classes=7)
    assert model.fc.weight.shape == (7, model.num_features)
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}
    assert kept.keys() == {name for name in stored if not name.startswith("fc.")}
    assert all(torch.equal(tensor, stored[name]) for name, tensor in kept.items())


@each_weights
def test_grey_images_give_the_scores_of_the_same_images_in_colour(weights, recipes):
    images = new_images(weights, 32)[0][:8].mean(dim=1, keepdim=True)
    name = f"my_{weights.architecture}"
    in_colour = timm.create_model(name, pretrained=True).eval()
    in_grey = timm.create_model(name, pretrained=True, in_chans=1).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            in_grey(images), in_colour(images.expand(-1, 3, -1, -1)), atol=1e-3, rtol=0
        )


@each_weights
def test_feature_maps_are_those_of_the_whole_model(weights):
    name, images = f"my_{weights.architecture}", torch.randn(2, 3, 32, 32)
    maps = timm.create_model(name, pretrained=True, features_only=True).eval()(images)
    whole = timm.create_model(name, pretrained=True).eval().forward_features(images)
    torch.testing.assert_close(maps[-1], whole)


@each_weights
def test_a_published_name_of_weights_is_found_by_its_variant(weights):
    assert published_weights(f"my_{weights.architecture}")[0].name == weights.name
    assert f"my_{weights.name}" in resnet_hub.list_models(pretrained=True)


def test_an_image_is_a_function_of_its_number_alone(recipes):
    from formula_images import FormulaImages

    images = FormulaImages(num_categories=20, image_size=16, seed=3)
    categories, numbers = np.array([4, 7, 4]), np.array([0, 1, 2])
    together = images.batch(categories, numbers)
    alone = FormulaImages(num_categories=8, image_size=16, seed=3).batch(categories[1:2], numbers[1:2])
    assert np.array_equal(together[1:2], alone)
    assert not np.array_equal(together[0], together[2])
    other_seed = FormulaImages(num_categories=20, image_size=16, seed=4).batch(categories, numbers)
    assert not np.array_equal(together, other_seed)


def test_the_recipe_gives_the_same_bytes_again_also_after_an_interruption(
    recipes, tmp_path, monkeypatch, capsys
):
    import pretrain

    options = ["--steps", "6", "--batch_size", "16", "--categories", "12", "--checkpoint_steps", "2"]
    once, twice = tmp_path / "once.safetensors", tmp_path / "twice.safetensors"
    pretrain.main(["--output", str(once), *options])
    make_batch, begun = pretrain.batch_of_step, []

    def batch_or_power_cut(chosen, makers, step):
        if step == 5 and 5 not in begun:
            begun.append(step)
            raise KeyboardInterrupt
        begun.append(step)
        return make_batch(chosen, makers, step)

    monkeypatch.setattr(pretrain, "batch_of_step", batch_or_power_cut)
    with pytest.raises(KeyboardInterrupt):
        pretrain.main(["--output", str(twice), *options])
    assert not twice.exists()
    with pytest.raises(SystemExit, match="other options"):
        pretrain.main(["--output", str(twice), *options, "--seed", "1"])
    capsys.readouterr()
    pretrain.main(["--output", str(twice), *options])
    assert begun == [0, 1, 2, 3, 4, 5, 4, 5]
    assert twice.read_bytes() == once.read_bytes()
    record = json.loads(capsys.readouterr().out)
    assert record["sha256"] == hashlib.sha256(once.read_bytes()).hexdigest()
    pretrain.main(["--output", str(twice), *options, "--seed", "1"])
    assert twice.read_bytes() != once.read_bytes()
