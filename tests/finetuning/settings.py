"""What the rule decides, for tests of the parts that are given a section of it."""

from resnet_hub.finetuning.config.hyperrule import Situation, decide
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.config.settings import Settings

SITUATION = {"num_train": 1257, "network_width": 512}


def settings_of(*, situation: dict | None = None, **options) -> Settings:
    """The settings of a run with these options, on as many images as the digits have."""
    return decide(FinetuneConfig(**options), Situation(**SITUATION | (situation or {})))
