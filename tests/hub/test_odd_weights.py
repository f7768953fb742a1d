"""Weights and configurations that no network can compute with are refused when they are loaded."""

import hashlib
import json
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import resnet_hub
from resnet_hub.errors import HubError, ModelError
from resnet_hub.hub import load, push_folder
from tests.hub_server import HubServer
from tests.hub_server.fixtures import REPO, files_on

pytest_plugins = ["tests.hub_server.fixtures"]

KINDS = [
    *(torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    found = safetensors.torch.load_file(folder / "model.safetensors")
    return {name: tensor.clone() for name, tensor in found.items()}


def with_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """The folder with other weights, changed on purpose."""
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return accepted(folder)


def accepted(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["resnet_hub"].pop("weights_sha256", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def with_cfg(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("names", ["all", "fc.weight", "bn1.running_var"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_weights_of_another_kind_are_refused_by_name(folder, kind, names):
    tensors = {
        name: tensor.to(kind) if names in ("all", name) else tensor
        for name, tensor in tensors_of(folder).items()
    }
    with pytest.raises(HubError, match=f"{'' if names == 'all' else names} as {str(kind)[6:]}"):
        load(with_weights(folder, tensors))


@pytest.mark.parametrize("kind", [torch.float32, torch.bool, torch.complex64])
def test_a_counter_of_another_kind_is_refused(folder, kind):
    tensors = tensors_of(folder)
    tensors["bn1.num_batches_tracked"] = torch.tensor(1).to(kind)
    with pytest.raises(HubError, match="num_batches_tracked as"):
        load(with_weights(folder, tensors))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_16_and_64_bits_are_read(folder, kind):
    tensors = {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in tensors_of(folder).items()
    }
    model = load(with_weights(folder, tensors))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("variance", [-1.0, -1e-6, -float("inf")])
def test_a_negative_variance_is_refused(folder, variance):
    tensors = tensors_of(folder)
    tensors["layer1.0.bn1.running_var"][2] = variance
    with pytest.raises(HubError, match=r"layer1\.0\.bn1\.running_var"):
        load(with_weights(folder, tensors))


def test_a_number_that_only_64_bits_can_hold_is_refused(folder):
    tensors = tensors_of(folder) | {"fc.bias": torch.full((10,), 1e300, dtype=torch.float64)}
    with pytest.raises(HubError, match=r"NaN or infinity: fc\.bias"):
        load(with_weights(folder, tensors))


@pytest.mark.slow
def test_200_000_tensors_are_refused_in_seconds(folder):
    tensors = tensors_of(folder) | {f"t{number}": torch.zeros(1) for number in range(200_000)}
    with_weights(folder, tensors)
    begin = time.process_time()
    with pytest.raises(HubError, match=r"model\.safetensors") as refused:
        load(folder)
    assert time.process_time() - begin < 10
    assert len(str(refused.value)) < 1_000


@pytest.mark.parametrize("key", ["mean", "std"])
@pytest.mark.parametrize(
    "value",
    [1e308, -1e308, 10**400, [0.5, 0.5], [0.5] * 4, [], "0.5", [None] * 3, [1e308] * 3, [10**400] * 3,
     [float("nan")] * 3, [float("inf")] * 3],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_a_mean_or_std_that_no_image_can_have_is_refused(folder, key, value):
    with pytest.raises(HubError, match=key):
        load(with_cfg(folder, **{key: value}))


@pytest.mark.parametrize("std", [0.0, -0.2, 1e-300, -0.0, False])
def test_a_std_that_cannot_be_divided_by_is_refused(folder, std):
    with pytest.raises(HubError, match="'std'"):
        load(with_cfg(folder, std=[0.2, std, 0.2]))


def test_weights_that_fit_and_still_overflow_give_an_error_and_no_nan(folder):
    tensors = tensors_of(folder)
    tensors["conv1.weight"] = torch.full_like(tensors["conv1.weight"], 1e37)
    tensors["bn1.weight"] *= 1e37
    model = load(with_weights(folder, tensors))
    with pytest.raises(ModelError, match="answers NaN or infinity"):
        resnet_hub.classify(model, torch.full((32, 32, 3), 255, dtype=torch.uint8).numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {name: tensor.to(torch.int8) for name, tensor in tensors.items()}, "as int8"),
        (lambda tensors: tensors | {"bn1.running_var": -tensors["bn1.running_var"]}, "negative variances"),
        (lambda tensors: tensors | {"fc.bias": tensors["fc.bias"] * float("nan")}, "NaN or infinity"),
    ],
    ids=["int8", "negative variance", "NaN"],
)
def test_timm_gets_no_such_weights_for_our_networks_either(folder, change, message):
    with_weights(folder, change(tensors_of(folder)))
    with pytest.raises(ModelError, match=message):
        timm.create_model(
            "my_resnet20", pretrained=True, num_classes=10,
            pretrained_cfg_overlay={"file": str(folder / "model.safetensors"), "num_classes": 10},
        )  # fmt: skip


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.999, 1.0])
def test_a_flipped_bit_in_an_export_is_found_and_may_be_accepted(folder, place):
    declared = json.loads((folder / "config.json").read_text())["resnet_hub"]["weights_sha256"]
    assert declared == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    flip(folder / "model.safetensors", place)
    with pytest.raises(HubError, match=r'on purpose, delete the line "weights_sha256"'):
        load(folder)
    load(accepted(folder))


def test_a_changed_export_is_not_published_and_an_accepted_one_loads_from_the_hub(hub: HubServer, folder):
    flip(folder / "model.safetensors", 0.5)
    with pytest.raises(HubError, match="is not the file that was written there"):
        push_folder(folder, REPO)
    assert ("models", REPO) not in hub.storage.repos
    push_folder(accepted(folder), REPO)
    load(REPO)


def test_a_published_folder_carries_its_sum_and_loads_in_timm(hub: HubServer, folder):
    push_folder(folder, REPO)
    sent = files_on(hub)
    declared = json.loads(sent["config.json"])["resnet_hub"]["weights_sha256"]
    assert declared == hashlib.sha256(sent["model.safetensors"]).hexdigest()
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes == 10
