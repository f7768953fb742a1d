"""The rule decides what the user left open, and only that."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import RECIPES, load_recipe

from ..settings import settings_of


def decided(num_train: int = 1257, **options) -> FinetuneConfig:
    """The options of a run with what the rule decided filled in."""
    facts = ("world_size", "multi_label", "network_width", "model_image_size", "model_train_size")
    situation = {name: options.pop(name) for name in facts if name in options}
    return settings_of(situation={"num_train": num_train} | situation, **options).recorded


def values_of(settings: Any) -> Iterator[Any]:
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name != "recorded":
            yield from values_of(value) if is_dataclass(value) else [value]


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_left_open(recipe: str):
    settings = settings_of(situation={"num_train": 1_281_167}, **load_recipe(recipe))
    assert None not in list(values_of(settings))


def test_every_setting_is_what_is_recorded_under_its_name():
    settings = settings_of(image_size=96, max_grad_norm=1.0, teacher_model="my_resnet50", mixup=0.2)
    sections = [section for section in vars(settings).values() if section != settings.recorded]
    for section in filter(is_dataclass, sections):
        for name, value in vars(section).items():
            assert getattr(settings.recorded, name, None) in (None, value)


@pytest.mark.parametrize(
    ("asked", "processes", "has_gpus", "images", "synchronizes"),
    [
        ("auto", 8, True, 64, True),
        ("auto", 2, True, 64, False),
        ("auto", 2, False, 64, True),
        ("auto", 1, True, 8, False),
        ("yes", 2, True, 64, True),
        ("no", 8, True, 64, False),
    ],
)
def test_batchnorm_is_synchronized_but_on_gpus_with_many_images(
    asked, processes: int, has_gpus: bool, images: int, synchronizes: bool
):
    situation = {"world_size": processes, "has_gpus": has_gpus}
    settings = settings_of(situation=situation, sync_batchnorm=asked, images_per_step=images)
    assert settings.machine.synchronizes_batchnorm == synchronizes


def test_training_is_at_the_size_that_the_weights_were_trained_at():
    """As my_resnet50.a1_in1k: trained at 224 px, evaluated at 288."""

    def sizes(**options) -> tuple[int | None, ...]:
        config = decided(model_image_size=288, model_train_size=224, **options)
        return config.first_image_size, config.train_image_size, config.image_size

    assert sizes() == (224, 224, 288)
    assert sizes(low_resolution_first=True) == (160, 224, 288)
    assert sizes(image_size=256) == (256, 256, 256)
    assert sizes(train_image_size=192) == (192, 192, 288)


def test_what_the_user_set_stays():
    chosen = {
        "learning_rate": 7e-4,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 10,
        "image_size": 96,
    }
    config = decided(**chosen)
    assert {name: getattr(config, name) for name in chosen} == chosen


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7])
def test_the_images_of_a_step_and_the_rate_do_not_depend_on_the_processes(world_size: int):
    config = decided(world_size=world_size)
    assert config.images_per_step == 64
    assert config.per_device_train_batch_size == math.ceil(64 / world_size)
    assert config.gradient_accumulation_steps == 1
    assert config.learning_rate == decided().learning_rate


@pytest.mark.parametrize(
    ("options", "metric"),
    [
        ({}, "accuracy"),
        ({"class_weights": "balanced"}, "macro_f1"),
        ({"class_weights": "balanced", "metric_for_best_model": "loss"}, "loss"),
        ({"multi_label": True}, "mean_average_precision"),
    ],
)
def test_weights_are_chosen_by_what_the_labels_and_their_weights_ask_for(options: dict, metric: str):
    assert decided(**options).metric_for_best_model == metric


def test_a_metric_that_the_labels_do_not_have_is_refused():
    with pytest.raises(ConfigError, match="several labels"):
        decided(metric_for_best_model="mean_average_precision")


def test_a_warm_up_that_is_longer_than_the_run_is_refused():
    assert decided(warmup_steps=20, max_train_steps=20).warmup_steps == 20
    with pytest.raises(ConfigError, match="the run has 20 steps"):
        decided(warmup_steps=21, max_train_steps=20)


@pytest.mark.parametrize("epochs", [1, 2, 3, 30])
def test_the_last_epoch_has_images_of_full_size(epochs: int):
    sizes = settings_of(low_resolution_first=True, num_train_epochs=epochs).images.epoch_sizes
    assert sizes[-1] == 224
    assert list(sizes) == sorted(sizes)


def test_batchnorm_is_taken_anew_where_training_and_evaluation_have_other_sizes():
    assert decided(low_resolution_first=True).reestimate_batchnorm == 1257
    assert decided(first_image_size=160).reestimate_batchnorm == 1257
    assert decided().reestimate_batchnorm == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_train_epochs": 0, "mixup": 0.2, "ema": True}, "--mixup, --ema is for steps"),
        ({"average_last_epochs": 3, "max_minutes": 5.0}, "which epochs are the last"),
        ({"average_last_epochs": 3, "early_stopping_epochs": 5}, "which epochs are the last"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        FinetuneConfig(**options)


def test_narrow_networks_learn_at_a_higher_rate_and_wide_ones_at_the_usual_one():
    rates = {width: decided(network_width=width).learning_rate for width in (64, 256, 512, 1024)}
    assert rates == {64: 4e-3, 256: 1e-3, 512: 5e-4, 1024: 5e-4}
    scratch = [decided(network_width=width, pretrained=False).learning_rate for width in (64, 512)]
    assert scratch == [3e-3, 3e-3]


def test_larger_data_sets_get_larger_steps_and_fewer_epochs():
    found = [decided(num_train=size) for size in (1_000, 20_000, 500_000)]
    assert [config.per_device_train_batch_size for config in found] == [64, 128, 256]
    epochs = [config.num_train_epochs or 0 for config in found]
    assert epochs == sorted(epochs, reverse=True)
    assert len(set(epochs)) > 1


def test_a_run_from_scratch_is_longer_and_faster_than_one_from_weights():
    scratch, tuned = decided(pretrained=False), decided()
    assert (scratch.num_train_epochs or 0) >= (tuned.num_train_epochs or 0)
    assert (scratch.learning_rate or 0) > (tuned.learning_rate or 0)


def test_a_number_of_steps_decides_the_epochs():
    assert decided(max_train_steps=50).num_train_epochs == 3  # 20 steps an epoch


def test_few_images_are_shown_as_often_as_150_steps_take():
    assert [decided(num_train=n).num_train_epochs for n in (50, 200, 1257)] == [150, 38, 30]
    assert decided(num_train=50, long_schedule=True).num_train_epochs == 300
    assert decided(num_train=50, num_train_epochs=4).num_train_epochs == 4
    assert decided(num_train=50, max_train_steps=20).num_train_epochs == 20


def test_a_step_is_never_larger_than_the_data_set():
    assert decided(num_train=9).per_device_train_batch_size == 9


def test_small_images_are_padded_and_cropped_and_large_ones_cropped_and_resized():
    assert decided(image_size=32).augmentation == "crop"
    assert decided(image_size=224).augmentation == "light"


def test_labels_that_do_not_exclude_each_other_are_not_smoothed():
    assert decided().label_smoothing == 0.1
    assert decided(multi_label=True).label_smoothing == 0.0
    with pytest.raises(ConfigError, match="label_smoothing"):
        decided(multi_label=True, label_smoothing=0.1)


def test_features_of_a_huge_data_set_are_not_gathered():
    assert decided(num_train=1_000_000).fit_fc_first is False
    assert decided(num_train=100_000).fit_fc_first is True
