"""Where images come from: the Hub, a folder, a table, an archive, a saved data set or the embedded digits."""

from resnet_hub.finetuning.data.sources.in_memory import open_in_memory
from resnet_hub.finetuning.data.sources.open import find_builder, make_digits, open_source, title_of
from resnet_hub.finetuning.data.sources.source import Source, note_on_guesses, reading

__all__ = [
    "Source",
    "find_builder",
    "make_digits",
    "note_on_guesses",
    "open_in_memory",
    "open_source",
    "reading",
    "title_of",
]
