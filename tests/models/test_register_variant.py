"""A user's own ResNet becomes as good a citizen of timm as the family's."""

import pickle
import warnings
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

import resnet_hub
from resnet_hub.cli.check import CHECKS, check
from resnet_hub.errors import ConfigError, ModelError
from resnet_hub.models import my_resnet
from resnet_hub.models.my_resnet import VARIANTS, register_variant, timm_twin
from resnet_hub.models.variant import Variant

NARROW = Variant(
    block="bottleneck",
    depths=(1, 1, 1),
    widths=(8, 16, 24),
    stem="deep",
    stem_width=16,
    shortcut="avgpool",
    attn="eca",
)


def test_a_few_lines_give_an_entry_point_features_and_a_place_in_the_list():
    entry_point = register_variant("my_narrow", NARROW)
    model = timm.create_model("my_narrow", num_classes=3, in_chans=1)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    assert entry_point(num_classes=2).num_classes == 2
    assert "my_narrow" in resnet_hub.list_models()
    features = timm.create_model("my_narrow", features_only=True)
    assert features.feature_info.channels() == [16, 32, 64, 96]
    assert pickle.loads(pickle.dumps(entry_point)) is entry_point
    assert timm_twin("my_narrow") is None


def test_a_variant_passes_the_conformance_check_in_all_parts():
    register_variant("my_narrow", NARROW)
    verdicts = check("my_narrow")
    assert [verdict.name for verdict in verdicts] == list(CHECKS)
    assert [verdict.detail for verdict in verdicts if not verdict.passed] == []


def test_the_check_says_what_a_broken_model_breaks():
    verdicts = {verdict.name: verdict for verdict in check("test_vit")}
    assert not verdicts["contract"].passed
    assert "not a MyResNet" in verdicts["contract"].detail


def test_registering_the_same_again_as_a_notebook_does_is_silent():
    register_variant("my_again", NARROW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_variant("my_again", NARROW)


def test_weights_of_a_users_file_are_loaded_with_their_configuration(tmp_path):
    register_variant("my_source", NARROW)
    trained = timm.create_model("my_source", num_classes=4).eval()
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    register_variant(
        "my_loaded",
        NARROW,
        pretrained=tmp_path / "w.safetensors",
        cfg={"num_classes": 4, "mean": (0.5, 0.5, 0.5), "license": "mit"},
    )
    loaded = timm.create_model("my_loaded", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(x), trained(x))
    assert loaded.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)


def test_a_row_of_the_table_with_a_change_is_a_variant_and_its_twin_is_found():
    register_variant("my_resnet50_blurred", replace(VARIANTS["my_resnet50"], anti_alias="blur"))
    assert timm_twin("my_resnet50_blurred") == "resnetblur50"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("my-net", {}, "my_net"),
        ("50net", {}, "my_50net"),
        ("resnet50", {}, "taken.*resnet50_mine"),
        ("my_resnet50", {}, "taken.*comes with resnet_hub.*my_resnet50_mine"),
        ("build", {}, "taken.*my_build"),
        ("VARIANTS", {}, "taken"),
        ("next", {}, "taken.*my_next"),
        ("__getattr__", {}, "taken.*my_getattr"),
        ("my_new", {"pretrained": "weights.pth"}, "Pickles"),
        ("my_new", {"pretrained": "nowhere.safetensors"}, "no file"),
        ("my_new", {"pretrained": "timm/resnet50.a1_in1k"}, "timm's resnet50"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_what_to_change(name, options, message):
    before = timm.list_models()
    with pytest.raises(ModelError, match=message):
        register_variant(name, NARROW, **options)
    assert timm.list_models() == before


@pytest.mark.parametrize("name", ["my_resnet50", "my_resnet20", "my_resnet18_small"])
def test_a_network_of_the_package_cannot_be_registered_again_even_as_what_it_is(name):
    weights, entry_point = timm.list_models(f"{name}.*", pretrained=True), timm.model_entrypoint(name)
    with pytest.raises(ModelError, match="comes with resnet_hub"):
        register_variant(name, VARIANTS[name])
    assert timm.list_models(f"{name}.*", pretrained=True) == weights
    assert timm.model_entrypoint(name) is entry_point is getattr(my_resnet, name)
    assert timm.create_model(name, num_classes=2, device="meta").num_classes == 2


def test_a_name_that_was_refused_breaks_no_other_model():
    before = dict(vars(my_resnet))
    for name in ("build", "Variant", "_register", "pretrained_cfg", "dict", "getattr", "__all__"):
        with pytest.raises(ModelError, match="taken"):
            register_variant(name, NARROW)
    assert vars(my_resnet) == before
    assert timm.create_model("my_resnet20", num_classes=2).num_classes == 2


def test_another_variant_under_the_name_of_ones_own_is_refused_and_the_first_stays():
    register_variant("my_first", NARROW)
    with pytest.raises(ModelError, match="taken"):
        register_variant("my_first", replace(NARROW, attn="se"))
    assert timm.create_model("my_first", device="meta").variant == NARROW


def test_an_unknown_key_of_the_configuration_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'interpolation'"):
        register_variant("my_new", NARROW, cfg={"interpolate": "bicubic"})
