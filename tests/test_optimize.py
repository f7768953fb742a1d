"""Faster forms compute the same, say by how much they differ, and leave the model as it is."""

import copy

import pytest
import timm
import torch
import torchvision
from timm.models import reparameterize_model
from torch import nn

import resnet_hub  # noqa: F401  registers the family
from resnet_hub.errors import ModelError
from resnet_hub.optimize import fastest_precision, optimize_for_inference

NAMES = ("my_resnet20", "my_resnet18", "my_resnet18d", "my_seresnet18", "my_resnetblur18")


def trained(name: str) -> nn.Module:
    model = timm.create_model(name, num_classes=10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


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
