"""The family in timm's registry: complete, exact, and strict about weights."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.resnet import ResNet
from torch import nn

from resnet_hub.errors import HubError, ModelError
from resnet_hub.models import my_resnet
from resnet_hub.models.architecture import MyResNet
from resnet_hub.models.my_resnet import OWN, TIMM_LIKE, VARIANTS, timm_twin
from tests.models.networks import images, trained

# One of each feature that changes the computation; the others differ only in depth and are in the slow run.
QUICK_TWINS = (
    "my_resnet18",
    "my_resnet26",
    "my_resnet18d",
    "my_seresnet18",
    "my_ecaresnet26t",
    "my_resnext50_32x4d",
    "my_resnetaa50",
    "my_resnetblur18",
)
BIG_TWINS = tuple(name for name in TIMM_LIKE if name not in QUICK_TWINS)


def test_table_entry_points_and_configurations_name_the_same_models():
    registered = set(timm.list_models(module="my_resnet"))
    written = {
        name
        for name, value in vars(my_resnet).items()
        if callable(value) and (name.startswith("my_") or timm.is_model(name))
    }
    assert (
        written == registered == set(VARIANTS) == {name.partition(".")[0] for name in my_resnet.default_cfgs}
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_the_docstring_of_an_entry_point_states_its_number_of_parameters(name):
    model = timm.create_model(name, device="meta")
    stated = re.search(r"; ([\d.]+) M parameters\.$", inspect.getdoc(timm.model_entrypoint(name)) or "")
    assert stated is not None
    digits = len(stated[1].partition(".")[2])
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.{digits}f}" == stated[1]


@pytest.mark.parametrize("name", TIMM_LIKE)
def test_parameters_and_features_are_those_of_the_twin_in_timm(name):
    ours = timm.create_model(name, device="meta")
    twin = timm.create_model(timm_twin(name), device="meta")
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in twin.state_dict().items()
    ]
    assert ours.feature_info == twin.feature_info
    assert ours.pretrained_cfg["first_conv"] == twin.pretrained_cfg["first_conv"]


def check_that_logits_and_gradients_equal_the_twins(name: str) -> None:
    twin = trained(timm.create_model(timm_twin(name), num_classes=5)).eval()
    ours = timm.create_model(name, num_classes=5).eval()
    ours.load_state_dict(twin.state_dict())
    for model in (ours, twin):
        model.zero_grad()
        model(images()).square().mean().backward()
    assert torch.equal(ours(images()), twin(images()))
    wanted = {key: weight.grad for key, weight in twin.named_parameters()}
    assert all(torch.equal(weight.grad, wanted[key]) for key, weight in ours.named_parameters())
    twin.load_state_dict(ours.state_dict())  # and the other way


@pytest.mark.parametrize("name", QUICK_TWINS)
def test_logits_and_gradients_equal_the_twins_bit_for_bit(name):
    check_that_logits_and_gradients_equal_the_twins(name)


@pytest.mark.family
@pytest.mark.parametrize("name", BIG_TWINS)
def test_logits_and_gradients_of_the_big_ones_equal_the_twins_bit_for_bit(name):
    check_that_logits_and_gradients_equal_the_twins(name)


@pytest.mark.parametrize(
    "options",
    [
        {"stem": "conv3"},
        {"shortcut": "avgpool"},
        {"attn": "se"},
        {"anti_alias": "avg"},
        {"act_layer": "silu"},
        {"norm_layer": "groupnorm"},
        {"output_stride": 8},
    ],
)
def test_a_model_with_an_option_that_changes_its_function_has_no_twin(options):
    assert timm_twin(timm.create_model("my_resnet18", **options)) != "resnet18"


def test_a_model_is_known_by_what_it_computes_and_a_name_by_its_row():
    assert timm_twin(MyResNet("resnet50", device="meta")) == "resnet50"
    assert timm_twin("my_resnet50.a1_in1k") == "resnet50"
    assert timm_twin(timm.create_model("my_resnet18", anti_alias="blur", device="meta")) == "resnetblur18"
    assert timm_twin(nn.Linear(2, 2)) is None
    assert timm_twin("resnet50") is None
    assert all(timm_twin(name) is None for name in OWN)
    assert all(issubclass(ResNet, type(timm.create_model(timm_twin(n), device="meta"))) for n in QUICK_TWINS)


@pytest.mark.parametrize("kind", ["list", "dict", "hook", "fx", "getter"])
@pytest.mark.parametrize("name", ["my_resnet18", "my_resnet20"])
def test_features_of_every_kind_have_the_sizes_that_feature_info_states(name, kind):
    model = timm.create_model(name, features_only=True, feature_cls=kind, in_chans=1).eval()
    maps = model(images(channels=1))
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    stated = zip(model.feature_info.channels(), model.feature_info.reduction(), strict=True)
    assert [m.shape for m in maps] == [
        (2, channels, 64 // stride, 64 // stride) for channels, stride in stated
    ]


def test_features_can_be_picked_and_trained_with_checkpointing():
    model = timm.create_model("my_resnet18", features_only=True, out_indices=(1, -1))
    model.set_grad_checkpointing()
    first, last = model(images())
    assert (first.shape[1], last.shape[1]) == (64, 512)
    (first.sum() + last.sum()).backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_unknown_options_are_a_type_error():
    with pytest.raises(TypeError, match="not_an_option"):
        timm.create_model("my_resnet18", not_an_option=1)


@pytest.mark.parametrize("name", ["my_resnet50", "my_resnet110", "my_resnet18_small"])
def test_layer_wise_rates_find_every_block(name):
    model = timm.create_model(name, device="meta")
    groups = timm.models.group_parameters(model, model.group_matcher())
    assert len(groups) == sum(model.variant.depths) + 2  # the stem, each block, the head


# Weights are loaded whole or not at all.


@pytest.fixture
def weights(tmp_path):
    """Saves the tensors of a trained my_resnet18, changed as asked, and gives the options that load them."""

    def save(change=lambda tensors: tensors):
        tensors = dict(trained(timm.create_model("resnet18")).state_dict())
        path = tmp_path / "model.safetensors"
        save_file(change(tensors), path)
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path), "hf_hub_id": None}}

    return save


class HubCache:
    """A cache of the Hub's client that holds what is put there, as if it had been downloaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, repository: str, model: nn.Module, file_name: str = "model.safetensors") -> None:
        cached = self.folder / f"models--{repository.replace('/', '--')}"
        snapshot = cached / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        save_file(model.state_dict(), snapshot / file_name)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("0" * 40)


@pytest.fixture
def hub_cache(tmp_path):
    return HubCache(tmp_path)


def without(*names):
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def test_a_whole_checkpoint_is_loaded_and_adapted_to_other_classes_and_channels(weights):
    options = weights()
    twin = timm.create_model("resnet18", **options).eval()
    ours = timm.create_model("my_resnet18", **options).eval()
    assert torch.equal(ours(images()), twin(images()))
    adapted = timm.create_model("my_resnet18", num_classes=3, in_chans=1, **options)
    assert torch.equal(adapted.layer4[1].conv2.weight, twin.layer4[1].conv2.weight)
    assert torch.equal(adapted.conv1.weight, twin.conv1.weight.sum(1, keepdim=True))


def test_a_file_from_before_batchnorm_counted_batches_is_whole(weights):
    def old(tensors):
        return {name: value for name, value in tensors.items() if "num_batches_tracked" not in name}

    timm.create_model("my_resnet18", **weights(old))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layer4.0.conv1.weight"), r"missing: layer4\.0\.conv1\.weight"),
        (lambda tensors: tensors | {"layer5.weight": torch.zeros(1)}, r"unknown: layer5\.weight"),
        (
            lambda tensors: tensors | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)},
            r"another shape: layer1\.0\.conv1\.weight \(64, 64, 1, 1\) instead of \(64, 64, 3, 3\)",
        ),
        (
            lambda tensors: tensors | {"bn1.running_var": torch.full((64,), float("nan"))},
            r"NaN or infinity: bn1\.running_var",
        ),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_names_also_when_the_head_is_replaced(
    weights, change, message
):
    options = weights(change)
    for num_classes in (1000, 3):
        with pytest.raises(ModelError, match=message):
            timm.create_model("my_resnet18", num_classes=num_classes, **options)


def test_a_missing_head_is_refused_unless_it_is_replaced(weights):
    options = weights(without("fc.weight", "fc.bias"))
    with pytest.raises(ModelError, match=r"missing: fc\.bias, fc\.weight"):
        timm.create_model("my_resnet18", **options)
    timm.create_model("my_resnet18", num_classes=3, **options)


@pytest.mark.parametrize("repository", ["timm/resnetaa50.a1h_in1k", "timm/resnetblur50.bt_in1k"])
def test_weights_that_fit_and_compute_something_else_are_refused(repository, hub_cache):
    architecture = repository.removeprefix("timm/").partition(".")[0]
    hub_cache.put(repository, timm.create_model(architecture))
    overlay = {"hf_hub_id": repository}
    with pytest.raises(
        ModelError, match=rf"computes what resnet50 computes.*Use them with 'my_{architecture}'"
    ):
        timm.create_model(
            "my_resnet50", pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=hub_cache.folder
        )
    timm.create_model(
        f"my_{architecture}", pretrained=True, pretrained_cfg_overlay=overlay, cache_dir=hub_cache.folder
    )


def test_plain_weights_are_refused_in_a_network_made_anti_aliased_by_an_option(hub_cache):
    hub_cache.put("timm/resnet18.a1_in1k", timm.create_model("resnet18"))
    timm.create_model("my_resnet18", pretrained=True, cache_dir=hub_cache.folder)
    with pytest.raises(ModelError, match="timm's resnet18"):
        timm.create_model("my_resnet18", pretrained=True, anti_alias="blur", cache_dir=hub_cache.folder)


def test_a_repository_without_safetensors_is_not_read_as_a_pickle(hub_cache):
    hub_cache.put("timm/resnet18.a1_in1k", timm.create_model("resnet18"), file_name="pytorch_model.bin")
    with pytest.raises(HubError, match="the cache does not have it"):
        timm.create_model("my_resnet18", pretrained=True, cache_dir=hub_cache.folder)


def test_rows_that_are_alike_are_there_once():
    rows = TIMM_LIKE | OWN  # without what other tests register
    assert len(set(rows.values())) == len(rows)
    assert replace(VARIANTS["my_resnet50"], group_width=128) == VARIANTS["my_wide_resnet50_2"]


def test_a_pickle_that_the_user_names_is_read_for_its_tensors_alone(tmp_path):
    path = tmp_path / "model.pth"
    options = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path), "hf_hub_id": None}}
    tensors = trained(timm.create_model("resnet18")).state_dict()
    torch.save(tensors, path)
    assert torch.equal(timm.create_model("my_resnet18", **options).conv1.weight, tensors["conv1.weight"])
    torch.save(tensors | {"fc.bias": Path("anything but a tensor")}, path)
    with pytest.raises(RuntimeError, match="weights_only=True blocked"):
        timm.create_model("my_resnet18", **options)


def test_device_and_dtype_are_where_every_weight_is_made():
    model = timm.create_model("my_seresnet18", device="meta", dtype=torch.bfloat16)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.bfloat16}
