"""Faster forms compute the same, say by how much they differ, and leave the model as it is."""

import copy
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from timm.layers import BatchNormAct2d, StdConv2d, convert_sync_batchnorm
from timm.models import reparameterize_model
from torch import Tensor, nn

import resnet_hub  # noqa: F401  registers the family
from resnet_hub.errors import ModelError
from resnet_hub.models.optimize import fastest_precision, optimize_for_inference

# Norms with activations (timm's BatchNormAct2d), squeeze and excitation, and norms before their convolutions.
OTHERS = ("test_efficientnet", "mobilenetv3_small_050", "regnety_002", "resnetv2_18")
NAMES = ("my_resnet20", "my_resnet18", "my_resnet18d", "my_seresnet18", "my_resnetblur18")


def trained(name: str) -> nn.Module:
    model = timm.create_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def assert_same_logits(found: Tensor, wanted: Tensor) -> None:
    assert float((found - wanted).abs().max()) <= 1e-4 * float(wanted.abs().max())


def batch_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_folding_removes_every_batchnorm_and_keeps_the_logits_in_float32(name):
    model = trained(name)
    number = batch_norms(model)
    fast = optimize_for_inference(model, precision="float32")
    assert fast.folded == number
    assert batch_norms(fast.model) == 0
    x = torch.randn(3, 3, 64, 64)
    assert torch.allclose(fast.model(x), model(x), rtol=1e-4, atol=1e-4)
    assert fast.largest_deviation <= 1e-4 * max(fast.largest_logit, 1)


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_of_timm_keep_their_logits_and_activations(name):
    torch.manual_seed(0)
    model = trained(name)
    fast = optimize_for_inference(model, precision="float32")
    size = model.pretrained_cfg["input_size"]
    x = torch.randn(2, *size)
    assert fast.folded > 0
    assert_same_logits(fast.model(x), model(x))
    assert fast.largest_deviation <= 1e-4 * fast.largest_logit


def test_a_norm_before_its_convolution_stays():
    model = trained("resnetv2_18")
    block = optimize_for_inference(model, precision="float32").model.network.stages[1].blocks[0]
    assert isinstance(block.norm1, BatchNormAct2d)
    assert not isinstance(block.norm2, BatchNormAct2d)


@pytest.mark.parametrize("name", ["my_resnet20", "test_efficientnet"])
def test_norms_that_were_synchronised_in_training_are_folded_too(name):
    model = trained(name)
    number = batch_norms(model)
    synchronised = convert_sync_batchnorm(copy.deepcopy(model))
    assert batch_norms(synchronised) == 0
    fast = optimize_for_inference(synchronised, precision="float32")
    assert fast.folded == number
    x = torch.randn(2, *model.pretrained_cfg["input_size"])
    assert_same_logits(fast.model(x), model(x))


class LoudNorm(nn.BatchNorm2d):
    """A norm of somebody's own that does more than one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 3


class Small(nn.Module):
    """Layers that run in the order that is asked for, whatever the order in which they were registered."""

    def __init__(self, conv: nn.Module, norm: nn.Module, *, norm_first: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.norm_first = conv, norm, norm_first
        self.pretrained_cfg = {"input_size": (8, 16, 16)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))
        return x.mean((2, 3))


def drifted(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.init.uniform_(norm.running_mean, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 4)
    return norm


@pytest.mark.parametrize(
    ("conv", "norm"),
    [
        (nn.Conv2d(8, 8, 3), LoudNorm(8)),
        (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
        (StdConv2d(8, 8, 3), nn.BatchNorm2d(8)),
    ],
    ids=["a norm of one's own", "a norm without statistics", "a standardised convolution"],
)
def test_layers_that_do_more_than_they_seem_to_are_left_alone(conv, norm):
    model = Small(conv, drifted(norm) if norm.track_running_stats else norm).eval()
    fast = optimize_for_inference(model, precision="float32")
    assert fast.folded == 0
    assert fast.largest_deviation <= 1e-5


def test_a_network_that_runs_in_another_order_than_it_was_registered_is_refused():
    model = Small(nn.Conv2d(8, 8, 3), drifted(nn.BatchNorm2d(8)), norm_first=True).eval()
    with pytest.raises(ModelError, match=r"1 BatchNorms folded.*torch\.compile"):
        optimize_for_inference(model)


def test_a_stem_whose_layers_have_names_is_folded_into_its_last_convolution():
    stem = nn.Sequential(OrderedDict(first=nn.Conv2d(8, 8, 3), second=nn.Conv2d(8, 8, 3)))
    model = Small(stem, drifted(nn.BatchNorm2d(8))).eval()
    fast = optimize_for_inference(model, precision="float32")
    assert fast.folded == 1
    assert fast.largest_deviation <= 1e-5


def test_the_model_that_was_given_is_left_as_it_is():
    model = trained("my_resnet20")
    before = copy.deepcopy(model.state_dict())
    model.train()
    optimize_for_inference(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.conv1.weight.is_contiguous()


def test_the_deviation_of_a_coarser_format_is_measured_and_larger():
    model = trained("my_resnet20")
    exact = optimize_for_inference(model, precision="float32")
    coarse = optimize_for_inference(model, precision="bfloat16")
    assert exact.largest_deviation < coarse.largest_deviation < 0.1 * coarse.largest_logit
    assert coarse.model(torch.randn(1, 3, 32, 32)).dtype == torch.float32
    assert coarse.precision == "bfloat16"


def test_auto_takes_what_the_machine_is_fastest_in():
    model = trained("my_resnet20")
    assert optimize_for_inference(model).precision == fastest_precision(torch.device("cpu"))


def test_timms_own_reparameterization_folds_the_blocks():
    model = trained("my_resnet18d")
    x = torch.randn(2, 3, 64, 64)
    folded = reparameterize_model(model)
    assert batch_norms(folded) < batch_norms(model)
    assert torch.allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_network_without_an_input_size_and_a_wrong_precision_are_refused():
    with pytest.raises(ModelError, match="input_size"):
        optimize_for_inference(torchvision.models.resnet18())
    with pytest.raises(ModelError, match="bfloat16"):
        optimize_for_inference(trained("my_resnet20"), precision="bf16")


@pytest.mark.slow
def test_a_compiled_form_computes_the_same():
    model = trained("my_resnet20")
    fast = optimize_for_inference(model, precision="float32", compile=True)
    assert fast.compiled
    assert fast.largest_deviation <= 1e-4 * max(fast.largest_logit, 1)
