"""What a caller in Python gives as objects, beside the options that a file could hold."""

from dataclasses import dataclass

from torch import nn

from resnet_hub.finetuning.data.sources import Source


@dataclass(frozen=True, kw_only=True)
class Given:
    """Objects in place of names. A run's record knows them by their content."""

    network: nn.Module | None = None
    """Whose weights the run starts from; it is copied."""
    source: Source | None = None
    """The data set."""


NOTHING_GIVEN = Given()
