"""The network of the notebook and the options that timm's users expect of it."""

import copy
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from timm.models import checkpoint_seq
from torch import nn

from resnet_hub.errors import ModelError
from resnet_hub.models.architecture import BasicBlock, Bottleneck, MyResNet, Variant, conv1x1, conv3x3
from resnet_hub.models.blocks import ZeroPadShortcut
from tests.models.networks import images, trained

TINY = Variant(block="basic", depths=(1, 1, 1, 1), widths=(8, 16, 24, 32), stem_width=8)
CIFAR = {"block": "basic", "widths": (16, 32, 64), "stem": "conv3", "stem_width": 16, "shortcut": "zero_pad"}


@pytest.mark.parametrize("name", MyResNet.cfgs)
def test_the_notebooks_networks_have_the_keys_and_shapes_of_torchvision(name):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)()
    ours = MyResNet(name, 1000, device="meta")
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in theirs.state_dict().items()
    ]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_logits_and_gradients_equal_torchvisions_bit_for_bit(name):
    theirs = trained(getattr(torchvision.models, name)())
    ours = MyResNet(name)
    ours.load_state_dict(theirs.state_dict())
    for model in (ours, theirs):
        model.eval()(images()).square().mean().backward()
    assert torch.equal(ours(images()), theirs(images()))
    wanted = {name: weight.grad for name, weight in theirs.named_parameters()}
    assert all(torch.equal(weight.grad, wanted[name]) for name, weight in ours.named_parameters())
    theirs.load_state_dict(ours.state_dict())  # and the other way


@pytest.mark.parametrize("size", [32, 65, 97])
def test_images_of_any_size_from_32_pixels_work(size):
    assert MyResNet(TINY, num_classes=7)(images(size)).shape == (2, 7)


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"resnet51.*did you mean.*resnet50"):
        MyResNet("resnet51")


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_blocks_are_made_as_in_the_notebook(block):
    downsample = nn.Sequential(conv1x1(8, 16 * block.expansion, 2), nn.BatchNorm2d(16 * block.expansion))
    first, second = block(8, 16, 2, downsample), block(16 * block.expansion, 16)
    x = second(first(torch.randn(2, 8, 10, 10)))
    assert x.shape == (2, 16 * block.expansion, 5, 5)


def test_conv3x3_keeps_the_size_and_has_no_bias():
    conv = conv3x3(4, 6)
    assert conv(torch.zeros(1, 4, 9, 9)).shape == (1, 6, 9, 9)
    assert conv.bias is None


@pytest.mark.parametrize(("depth", "millions"), [(3, 0.27), (5, 0.46), (7, 0.66), (9, 0.85), (18, 1.7)])
def test_cifar_networks_have_the_parameters_of_the_papers_table_6(depth, millions):
    model = MyResNet(Variant(depths=(depth,) * 3, **CIFAR), num_classes=10, device="meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.035)


def test_the_zero_pad_shortcut_takes_every_second_pixel_and_adds_empty_channels():
    x = torch.randn(1, 4, 6, 6)
    y = ZeroPadShortcut(4, 10, 2)(x)
    assert torch.equal(y[:, 3:7], x[:, :, ::2, ::2])
    assert not y[:, :3].any()
    assert not y[:, 7:].any()


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize(
    ("twin", "variant"),
    [
        ("resnet18", MyResNet.cfgs["resnet18"]),
        ("resnet18d", replace(MyResNet.cfgs["resnet18"], stem="deep", shortcut="avgpool")),
        ("resnetblur18", replace(MyResNet.cfgs["resnet18"], anti_alias="blur")),
    ],
)
def test_a_smaller_output_stride_is_dilation_as_in_timm(twin, variant, output_stride):
    theirs = trained(timm.create_model(twin, output_stride=output_stride)).eval()
    ours = MyResNet(variant, output_stride=output_stride).eval()
    ours.load_state_dict(theirs.state_dict())
    features = ours.forward_features(images(96))
    assert features.shape[-1] == 96 // output_stride
    assert torch.equal(features, theirs.forward_features(images(96)))


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "catavgmax", "fast", "fastcatavgmax"])
def test_every_kind_of_pooling_is_timms(pool):
    theirs = timm.create_model("resnet18", global_pool=pool, num_classes=5).eval()
    ours = MyResNet("resnet18", num_classes=5, global_pool=pool).eval()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(images()), theirs(images()))
    assert ours.head_hidden_size == theirs.head_hidden_size


@pytest.mark.parametrize(("norm", "act"), [("groupnorm", "silu"), ("batchnorm", "gelu")])
def test_other_layers_by_timms_names_compute_what_timm_computes(norm, act):
    theirs = timm.create_model("resnet18", norm_layer=norm, act_layer=act, zero_init_last=False).eval()
    ours = MyResNet("resnet18", norm_layer=norm, act_layer=act).eval()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(images()), theirs(images()))


def test_stochastic_depth_grows_linearly_as_in_timm():
    theirs = timm.create_model("resnet34", drop_path_rate=0.3)
    ours = MyResNet("resnet34", drop_path_rate=0.3)

    def rates(model: nn.Module) -> list[float]:
        return [module.drop_prob for module in model.modules() if type(module).__name__ == "DropPath"]

    assert rates(ours) == rates(theirs)


def test_dropout_before_the_classifier_acts_only_in_training():
    model = MyResNet(TINY, drop_rate=0.5)
    x = model.forward_features(images())
    assert not torch.equal(model.train().forward_head(x), model.forward_head(x))
    assert torch.equal(model.eval().forward_head(x), model.forward_head(x))


def test_a_new_head_keeps_the_pooling_unless_told_otherwise():
    model = MyResNet(TINY, global_pool="catavgmax").eval()
    pooled = model.forward_head(model.forward_features(images()), pre_logits=True)
    model.reset_classifier(5)
    assert torch.equal(model.forward_head(model.forward_features(images()), pre_logits=True), pooled)
    assert (model.num_classes, model.fc.in_features, model.head_hidden_size) == (5, 64, 64)
    model.reset_classifier(0, "")
    assert model(images()).shape == (2, 32, 2, 2)


def test_a_new_head_has_the_precision_and_the_mode_of_the_network():
    model = MyResNet(TINY).to(torch.bfloat16).eval()
    model.reset_classifier(3)
    assert model.fc.weight.dtype == torch.bfloat16
    assert not model.fc.training


@pytest.mark.parametrize("index", range(5))
def test_pruned_features_are_the_intermediate_ones(index):
    model = trained(MyResNet(TINY)).eval()
    wanted = model.forward_intermediates(images(), [index], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([index]) == [index]
    assert torch.equal(model.forward_features(images()), wanted)
    assert model.num_features == model.feature_info[index]["num_chs"]
    model.set_grad_checkpointing()
    assert torch.equal(model.forward_features(images()), wanted)


def test_stopping_early_gives_the_same_features():
    model = trained(MyResNet(TINY)).eval()
    every = model.forward_intermediates(images(), intermediates_only=True)
    last, some = model.forward_intermediates(images(), [1, -3], stop_early=True)
    assert torch.equal(some[0], every[1])
    assert torch.equal(some[1], every[2])
    assert torch.equal(last, every[2])


def test_checkpointing_changes_memory_and_not_gradients():
    plain = trained(MyResNet(TINY)).eval()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        model(images()).sum().backward()
    for left, right in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(left.grad, right.grad)
    assert checkpoint_seq(plain.layer1, torch.zeros(1, 8, 4, 4)).shape == (1, 8, 4, 4)


@pytest.mark.parametrize(
    "change", [{}, {"attn": "se"}, {"attn": "eca"}, {"anti_alias": "blur"}, {"stem": "deep"}]
)
def test_weights_are_drawn_anew_after_they_were_made_on_no_device(change):
    model = MyResNet(replace(TINY, **change), num_classes=5, device="meta", dtype=torch.float64)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    model.init_weights()
    assert all(tensor.isfinite().all() for tensor in [*model.parameters(), *model.buffers()])
    assert model(images().double()).isfinite().all()


def test_residual_branches_start_at_zero_unless_told_otherwise():
    def largest_weight_of_last_norm(model: MyResNet) -> float:
        return max(
            float(b.bn2.weight.detach().abs().max()) for b in model.modules() if isinstance(b, BasicBlock)
        )

    assert largest_weight_of_last_norm(MyResNet(TINY)) == 0
    kept = MyResNet(TINY, zero_init_last=False)
    kept.init_weights()
    assert largest_weight_of_last_norm(kept) == 1


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_networks_of_fewer_stages_work_and_say_which_features_they_have(stages):
    variant = replace(TINY, depths=(1,) * stages, widths=(8, 16, 24)[:stages])
    model = MyResNet(variant, num_classes=3)
    assert [info["module"] for info in model.feature_info] == ["act1", "layer1", "layer2", "layer3"][
        : stages + 1
    ]
    assert model.forward_features(images()).shape[-1] == 64 // model.feature_info[-1]["reduction"]
    assert torch.jit.script(model.eval())(images()).shape == (2, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "basick", "depths": (1,)}, "basic.*bottleneck"),
        ({"block": "basic", "depths": ()}, "one to four stages"),
        ({"block": "basic", "depths": (1, 0)}, "at least one block"),
        ({"block": "basic", "depths": (1, 1)}, "one width for each stage"),
        ({"block": "basic", "depths": (1,), "widths": (0,)}, "positive"),
        ({"block": "basic", "depths": (1, 1, 1, 1), "groups": 32}, 'set block="bottleneck"'),
        ({"block": "basic", "depths": (1, 1, 1, 1), "attn": "sea"}, "'se'"),
    ],
)
def test_a_variant_that_makes_no_network_is_refused_with_what_to_change(fields, message):
    with pytest.raises(ModelError, match=message):
        Variant(**fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "conv5"}, "conv7"),
        ({"shortcut": "none"}, "zero_pad"),
        ({"global_pool": "median"}, "catavgmax"),
        ({"act_layer": "rellu"}, "act_layer='rellu'"),
        ({"norm_layer": "batch"}, "norm_layer='batch'"),
        ({"output_stride": 4.5}, r"\[4, 8, 16, 32\]"),
        ({"drop_rate": 1.5}, "share"),
    ],
)
def test_an_option_that_no_layer_can_be_made_of_is_refused_with_the_choices(options, message):
    with pytest.raises(ModelError, match=message):
        MyResNet(TINY, **options)


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="stemm"):
        MyResNet("resnet18", stemm="conv3")
