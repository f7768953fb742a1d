"""What a person should know of a data set before believing the scores: the notes below its table."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_hub.finetuning.data.labels import Labels
from resnet_hub.finetuning.data.split import Split

_SHOWN = 5  # class names in a note
_NAME_CHARS = 40  # of a class name in a table or a note
_FEWEST_PIXELS = 8  # on a side; the smallest data set in use, the digits, has images of 8x8
_IMBALANCE = 10  # images of the commonest class over those of the rarest, from which on it is worth a note
_LIST_AS_TEXT = re.compile(r"\s*(\[.*\]|\{.*\}|\(.*,.*\))\s*", re.DOTALL)

Counts = Mapping[str, Sequence[int]]
"""Split -> images of each class."""


def notes_on_classes(labels: Labels, counts: Counts) -> list[str]:
    """Notes on classes that are missing somewhere, rare, or named like others."""
    train = np.array(counts["train"])
    notes: list[str] = []

    def names(chosen: NDArray[np.bool_]) -> list[str]:
        return [labels.class_names[number] for number in np.flatnonzero(chosen).tolist()]

    absent = names(train == 0)
    if absent:
        notes.append(f"{len(absent)} classes have no training image and cannot be learnt: {some_of(absent)}.")
    for split, found in ((split, np.array(found)) for split, found in counts.items() if split != "train"):
        unseen = int(found[train == 0].sum())
        if unseen:
            notes.append(f"{unseen} labels of {split} are of classes that train lacks; they count as errors.")
        unmeasured = names((found == 0) & (train > 0))
        if unmeasured:
            notes.append(f"{split} has no image of these classes of train: {some_of(unmeasured)}.")
    return notes + _notes_on_balance(labels, train) + notes_on_names(labels, counts)


def _notes_on_balance(labels: Labels, train: NDArray[np.int64]) -> list[str]:
    present = train[train > 0]
    notes: list[str] = []
    if present.max() >= _IMBALANCE * present.min():
        most, fewest = (
            labels.class_names[int(np.flatnonzero(train == n)[0])] for n in (present.max(), present.min())
        )
        notes.append(
            f"The commonest class has {present.max() / present.min():.0f} times the images of the rarest "
            f"({shown(most)} {present.max():,}, {shown(fewest)} {present.min():,}); --class_weights balanced "
            "makes them count the same."
        )
    single = int((train == 1).sum())
    if 2 * single > len(train):
        notes.append(f"{single:,} of {len(train):,} classes have a single training image.")
    return notes


def notes_on_names(labels: Labels, counts: Counts) -> list[str]:
    """Notes on class names that differ in next to nothing, and on lists that were written as text."""
    alike: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(labels.class_names):
        alike[_essence(name)].append(number)
    totals = [sum(found) for found in zip(*counts.values(), strict=True)]
    groups = [
        " and ".join(
            _exactly(labels.class_names[n]) + (f" ({totals[n]:,})" if totals else "") for n in numbers
        )
        for numbers in alike.values()
        if len(numbers) > 1
    ]
    notes = []
    if groups:
        notes.append(
            f"Some class names differ only in case, spaces or the form of letters and are separate classes: "
            f"{some_of(groups, chars=200)}. Merge them in the data set if they are one."
        )
    lists = [name for name in labels.class_names if _LIST_AS_TEXT.fullmatch(name)]
    joined = [name for name in labels.class_names if _is_joined(name, set(labels.class_names))]
    if joined or 2 * len(lists) > len(labels.class_names):
        notes.append(
            f"Class names such as {shown((joined or lists)[0])} look like lists written as text, and each "
            "different text is a class. Store them as lists to have them read as multi-label."
        )
    return notes


def _is_joined(name: str, names: set[str]) -> bool:
    """Whether a name is several other ones with a separator between them."""
    parts = [part.strip() for part in re.split(r"[|;,]", name)]
    return len(parts) > 1 and names.issuperset(parts)


def notes_on_contradictions(labels: Labels, splits: Mapping[str, Split]) -> list[str]:
    """A note on images that occur, byte for byte, with different labels."""
    digests = np.concatenate([split.seen.digests for split in splits.values()])
    _, inverse, times = np.unique(digests, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(times[inverse] > 1)
    told = np.concatenate([split.labels for split in splits.values()])
    by_image: dict[int, dict[bytes, int]] = defaultdict(dict)
    for place in repeated.tolist():
        by_image[int(inverse[place])].setdefault(told[place].tobytes(), place)
    contradictions = [list(found.values()) for found in by_image.values() if len(found) > 1]
    if not contradictions:
        return []
    first = " and ".join(_where(place, splits, labels) for place in contradictions[0][:2])
    return [
        f"Contradictory labels: {len(contradictions):,} images occur more than once, byte for byte, with "
        f"different labels, among them {first}. Correct or remove them; if an image has several labels, give "
        "them as one list."
    ]


def _where(place: int, splits: Mapping[str, Split], labels: Labels) -> str:
    """File or row, and labels, of an image by its place in all splits, one after the other."""
    for split in splits.values():
        if place < len(split):
            label = split.labels[place]
            numbers = [int(label)] if split.labels.ndim == 1 else np.flatnonzero(label).tolist()
            told = some_of([labels.class_names[number] for number in numbers]) or "no class"
            file = split.images.file_of(int(split.rows[place]))
            return f"{file or f'{split.name} row {split.rows[place]}'} ({told})"
        place -= len(split)
    raise AssertionError(f"image {place} behind the last split")


def notes_on_images(
    kinds: Mapping[str, int], duplicates: Mapping[str, int], sizes: NDArray[np.int32]
) -> list[str]:
    """Notes on images that are in two splits, have unusual pixels, or are tiny."""
    notes = [
        f"{count:,} images of {where} by content, which flatters the score."
        for where, count in duplicates.items()
    ]
    modes: Counter[str] = Counter()
    for kind, count in kinds.items():
        modes[kind.split()[-1]] += count
    if len(modes) > 1:
        told = ", ".join(f"{mode} {count:,}" for mode, count in modes.most_common())
        notes.append(f"Images have {len(modes)} kinds of pixels ({told}); all are converted to one.")
    wide = sum(count for mode, count in modes.items() if mode.startswith(("I", "F")))
    if wide:
        notes.append(f"{wide:,} images have 16 or 32 bits per pixel and are scaled to 8: white is 65,535.")
    tiny = int((sizes.min(axis=1) < _FEWEST_PIXELS).sum())
    if tiny:
        notes.append(f"{tiny:,} images have a side of less than {_FEWEST_PIXELS} pixels.")
    return notes


def some_of(names: Sequence[str], *, chars: int = _NAME_CHARS) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(shown(name, chars=chars) for name in names[:_SHOWN]) + more


def shown(name: str, *, chars: int = _NAME_CHARS) -> str:
    """A name as it fits into a line: shortened, and with what cannot be printed spelled out."""
    short = name if len(name) <= chars else f"{name[: chars - 3]}..."
    return short if short.isprintable() and short == short.strip() else repr(short)


def _essence(name: str) -> str:
    """What is left of a name without case, spaces, hyphens, invisible characters and forms of letters."""
    if name.startswith("-"):  # a negative number, perhaps
        return name
    plain = unicodedata.normalize("NFKC", name).casefold()
    visible = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc", "Zs", "Pd", "Pc"))
    return visible or name


def _exactly(name: str) -> str:
    """A name in quotes, spelled out where what it is made of cannot be seen."""
    is_plain = name.isprintable() and unicodedata.is_normalized("NFC", name)
    return repr(name) if is_plain else ascii(name)
