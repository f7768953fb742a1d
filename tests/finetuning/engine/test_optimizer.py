"""The learning rate is a function of the step; weight decay spares norms and biases."""

from itertools import pairwise

import pytest
import timm

import resnet_hub  # noqa: F401  registers the family
from resnet_hub.finetuning.engine.optimizer import Schedule, make_optimizer, set_rate

SCHEDULE = Schedule(peak_rate=0.1, warmup_steps=10, total_steps=110)


def test_the_rate_rises_linearly_then_falls_to_zero_without_a_jump():
    rates = [SCHEDULE.rate(step) for step in range(111)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
    assert rates[60] == pytest.approx(0.05)
    assert rates[110] == pytest.approx(0.0, abs=1e-12)


def test_a_run_that_ends_by_the_clock_ends_with_a_finished_schedule():
    assert SCHEDULE.rate(30, share_of_time=1.0) == pytest.approx(0.0, abs=1e-12)
    assert SCHEDULE.rate(60, share_of_time=0.1) == SCHEDULE.rate(60)
    by_the_clock = [SCHEDULE.rate(2, share_of_time=share / 100) for share in range(101)]
    assert max(by_the_clock) > 0.09
    assert by_the_clock[-1] == pytest.approx(0.0, abs=1e-12)


def test_a_schedule_without_warmup_starts_at_the_peak():
    assert Schedule(peak_rate=0.1, warmup_steps=0, total_steps=1).rate(0) == pytest.approx(0.1)


def test_only_convolutions_and_fc_are_decayed():
    model = timm.create_model("my_resnet20", num_classes=10)
    optimizer = make_optimizer(model, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(parameter)]
        for group in optimizer.param_groups
        if group["weight_decay"] > 0
        for parameter in group["params"]
    }
    assert {"conv1.weight", "fc.weight", "layer1.0.conv1.weight"} <= decayed
    assert not {name for name in decayed if "bn" in name or name.endswith("bias")}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)


def test_a_groups_own_scale_multiplies_the_rate():
    model = timm.create_model("my_resnet20", num_classes=10)
    optimizer = make_optimizer(model, weight_decay=0.05)
    optimizer.param_groups[0]["lr_scale"] = 0.5
    set_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
