"""The table of published weights says what timm and torchvision say; everybody may use its defaults."""

import pytest
import timm
import torchvision
from timm.models import get_pretrained_cfg, is_model

import resnet_hub
from resnet_hub.models.my_resnet import OWN, TIMM_LIKE, published_weights, timm_twin
from resnet_hub.models.packaged_weights import PACKAGED
from resnet_hub.models.published_weights import WEIGHTS, weights_of

# Fields that differ from timm's on purpose: the name, and that no pickle is read in place of safetensors.
OUR_OWN_FIELDS = {"architecture", "url", "hf_hub_filename"}
TORCHVISION_TAGS = {"tv_in1k": "IMAGENET1K_V1", "tv2_in1k": "IMAGENET1K_V2"}


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_field_of_a_configuration_is_that_of_the_installed_timm(name):
    ours, theirs = get_pretrained_cfg(f"my_{name}").to_dict(), get_pretrained_cfg(name).to_dict()
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert different - OUR_OWN_FIELDS == set()


def test_every_tag_that_timm_has_for_a_twin_is_there():
    theirs = [tag for name in TIMM_LIKE for tag in timm.list_models(f"{timm_twin(name)}.*", pretrained=True)]
    assert sorted(theirs) == sorted(WEIGHTS)
    ours = [*theirs, *PACKAGED]
    assert sorted(resnet_hub.list_models(pretrained=True)) == sorted(f"my_{tag}" for tag in ours)


@pytest.mark.parametrize("name", [n for n in WEIGHTS if n.partition(".")[2] in TORCHVISION_TAGS])
def test_weights_of_torchvision_are_those_that_torchvision_publishes(name):
    weights = WEIGHTS[name]
    enum = torchvision.models.get_model_weights(weights.architecture)
    theirs = enum[TORCHVISION_TAGS[weights.tag]]
    assert get_pretrained_cfg(name).url == theirs.url
    assert weights.top1 is not None
    assert weights.top5 is not None
    accuracy = theirs.meta["_metrics"]["ImageNet-1K"]
    transform = theirs.transforms()
    if round(transform.crop_size[0] / transform.resize_size[0], 3) == round(weights.accuracy_crop_pct, 3):
        # timm measured the same weights on the same crops with another resize: at most 16 of 50,000 images
        assert weights.top1 == pytest.approx(accuracy["acc@1"], abs=0.035)
        assert weights.top5 == pytest.approx(accuracy["acc@5"], abs=0.035)
    assert list(weights.mean) == transform.mean
    assert list(weights.std) == transform.std
    assert weights.interpolation == transform.interpolation.value


@pytest.mark.parametrize("architecture", sorted({weights.architecture for weights in WEIGHTS.values()}))
def test_the_default_is_the_most_accurate_of_the_freely_licensed(architecture):
    rows = weights_of(architecture)
    free = [weights for weights in rows if weights.is_free]
    default = get_pretrained_cfg(f"my_{architecture}")
    assert default.license in {"apache-2.0", "bsd-3-clause", "mit"}
    assert default.hf_hub_id == rows[0].repo_id
    assert rows[0].top1 == max(weights.top1 or 0.0 for weights in free)


def test_weights_for_research_only_and_without_a_licence_are_not_free():
    bound = {weights.name for weights in WEIGHTS.values() if not weights.is_free}
    assert bound == {
        name for name in WEIGHTS if ".fb_ssl_" in name or ".fb_swsl_" in name or ".fb_wsl_" in name
    } | {"resnet50.bamboo"}


def test_variants_of_our_own_claim_the_weights_in_the_package_and_no_others():
    packaged = {f"my_{weights.architecture}" for weights in PACKAGED.values()}
    assert {name for name in OWN if published_weights(name)} == packaged
    assert {name for name in OWN if get_pretrained_cfg(name).has_weights} == packaged


def test_the_plain_network_does_not_list_anti_aliased_weights():
    assert all(is_model(weights.architecture) for weights in WEIGHTS.values())
    assert {weights.name.partition(".")[0] for weights in published_weights("my_resnet50")} == {"resnet50"}
