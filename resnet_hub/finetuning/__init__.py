"""Fine-tuning: from a data set to a measured, exported model. The story is told in `run.py`."""

from typing import TYPE_CHECKING, Any

from resnet_hub.errors import naming_the_extra
from resnet_hub.finetuning.config.options import FinetuneConfig

if TYPE_CHECKING:
    from resnet_hub.finetuning.run import dry_run, find_learning_rate, finetune, inspect_labels

__all__ = ["FinetuneConfig", "dry_run", "find_learning_rate", "finetune", "inspect_labels"]


def __getattr__(name: str) -> Any:
    """The verbs, imported when they are asked for: the configuration alone needs none of what they need."""
    if name in __all__:
        with naming_the_extra():
            from resnet_hub.finetuning import run  # noqa: PLC0415

        return getattr(run, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
