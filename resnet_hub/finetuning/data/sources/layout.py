"""What the folders in a folder are: splits with class folders in them, classes, or not to be told apart."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS

from resnet_hub.errors import DataError, some_of
from resnet_hub.images.folders import folders_in, has_images, is_image_file

_SPLITS = {keyword: str(split) for split, keywords in SPLIT_KEYWORDS.items() for keyword in keywords}
# As `datasets` reads names: a keyword by itself, or set apart by one of these characters.
_WORD = re.compile(f"[^{NON_WORDS_CHARS}]+")
# What looks like a split to a person, though not to `datasets`: trainset, TestImages, mytrain.
_HINT = re.compile(r"^(train|test|valid|val(?=$|[^a-z]|set|data|im))|(train|test|valid)(set|data|images)?$")
_WRAPPERS = frozenset({"images", "imgs", "img", "data"})
_IMAGES = frozenset({"images", "image", "imgs", "img", "jpegimages", "photos"})
_ANNOTATIONS = frozenset((
    "annotations", "annotation", "ground_truth", "groundtruth", "gt", "labels", "label", "mask", "masks",
    "segmentation", "segmentations", "segmentationclass",
))  # fmt: skip
# A data set, or a split, in several folders: train_1, train-part2, images_001, batch_a.
_PART = re.compile(
    r"(?P<stem>.*?)(?P<word>parts?|chunk|batch|shard|fold|images?|imgs?|vol|volume|archive|disk)?"
    r"([-_. (]*[0-9]+\)?|[-_. ][a-z])"
)


@dataclass(frozen=True, kw_only=True)
class ClassFolders:
    """Where class folders are, and what to say of how they were found."""

    splits: Mapping[str, Sequence[Path]]
    """Split -> folders of class folders; a split without any has images that no class is known of."""
    notes: tuple[str, ...] = ()

    @property
    def folders(self) -> list[Path]:
        """Those of all splits."""
        return [folder for folders in self.splits.values() for folder in folders]


def split_of(name: str) -> str | None:
    """The split that a file or folder of this name is of: `training_set`, `val2017`; None for any other."""
    found = {_SPLITS[word] for word in _WORD.findall(name.lower()) if word in _SPLITS}
    return found.pop() if len(found) == 1 else None


def is_exactly_a_split(name: str) -> bool:
    """Whether the name is that of a split, with nothing added."""
    return name.lower() in _SPLITS


def find_class_folders(folder: Path) -> ClassFolders | None:
    """The class folders in a folder, or in the splits in it; None if no folder in it has images.

    Class folders of the same names in several folders that are named like splits prove that they are splits.
    Raises DataError where neither names nor what is in the folders tells splits from classes.
    """
    inside = _folders_with_images(folder)
    if not inside:
        return None
    if len(inside) == 1:
        return _of_single_folder(folder, *inside.items())
    _refuse_pairs(folder, inside)
    named = {name: split for name in inside if (split := split_of(name)) is not None}
    if not named and _are_parts(inside):
        named = dict.fromkeys(inside, "train")
    with_classes = [name for name in named if inside[name]]
    shared = _shared_names({name: inside[name] for name in with_classes})
    if _have_roles(named) and shared and all(inside[name] for name in named if named[name] == "train"):
        return _as_splits(folder, inside, named, shared)
    _refuse_what_could_be_splits(folder, inside)
    return ClassFolders(splits={"train": [folder]}, notes=_notes_on_classes(inside))


def refuse_splits_as_classes(folder: Path) -> None:
    """Raise DataError if the folders in a folder of classes are splits: by their names, or by proof."""
    inside = _folders_with_images(folder)
    exact = [name for name in inside if is_exactly_a_split(name)]
    proven = len(inside) > 1 and all(map(_looks_like_a_split, inside)) and _shared_names(inside)
    if inside and (len(exact) == len(inside) or proven):
        raise DataError(
            f"{folder} holds the splits {', '.join(inside)} and not classes. Use --dataset_name {folder}, or "
            f"name the folder of one split: {_flags(folder, list(inside))}."
        )


def _folders_with_images(folder: Path) -> dict[str, list[str]]:
    """Folders that have images in or below them -> names of those in them that have."""
    return {
        place.name: [below.name for below in folders_in(_unwrapped(place)) if has_images(below)]
        for place in folders_in(folder)
        if has_images(place)
    }


def _of_single_folder(folder: Path, only: tuple[str, list[str]]) -> ClassFolders | None:
    name, classes = only
    split = split_of(name)
    has_images_itself = any(is_image_file(entry.name) for entry in (folder / name).iterdir())
    if split is None and classes and not has_images_itself:  # a folder around the others, as archives have
        found = find_class_folders(folder / name)
        note = f"The data set is in {name}, the only folder with images."
        return found and ClassFolders(splits=found.splits, notes=(note, *found.notes))
    if split is None or not classes:
        return ClassFolders(splits={"train": [folder]})
    return ClassFolders(splits={split: [_unwrapped(folder / name)]})


def _unwrapped(split: Path) -> Path:
    """The folder of class folders of a split: itself, or the only one in it, if its name says no more."""
    inside = folders_in(split) if split_of(split.name) is not None else []
    if len(inside) != 1:
        return split
    says_nothing = inside[0].name.lower() in _WRAPPERS or split_of(inside[0].name) == split_of(split.name)
    return inside[0] if says_nothing else split


def _as_splits(
    folder: Path, inside: Mapping[str, list[str]], named: Mapping[str, str], shared: set[str]
) -> ClassFolders:
    others = {name: classes for name, classes in inside.items() if name not in named}
    like_splits = [name for name, classes in others.items() if shared & set(classes)]
    if like_splits:
        raise DataError(
            f"{folder} has the splits {', '.join(named)}, and {some_of(like_splits)} with the same folders "
            f"({some_of(sorted(shared))}). Name the folders to use: {_flags(folder, list(named))}; if each "
            f"is a class: --train_dir {folder}."
        )
    _refuse_pairs(next(folder / name for name, split in named.items() if split == "train"), shared)
    notes = [f"The folder {name} is read as {split}." for name, split in named.items() if name != split]
    notes += [f"Left out: the folder {name}, which is no split and has no class folders." for name in others]
    splits: dict[str, list[Path]] = {}
    for name, split in named.items():
        splits.setdefault(split, []).append(_unwrapped(folder / name))
    return ClassFolders(splits=splits, notes=tuple(notes))


def _have_roles(named: Mapping[str, str]) -> bool:
    """Whether folder -> split has train, and nothing twice but the numbered parts of a split."""
    by_split = {split: [name for name, other in named.items() if other == split] for split in named.values()}
    no_doubt = all(len(names) == 1 or _are_parts(names) for names in by_split.values())
    return "train" in by_split and len(named) > 1 and no_doubt


def _are_parts(names: Collection[str]) -> bool:
    """Whether folders of these names hold parts of the same: names that differ in a number or letter."""
    found = [_PART.fullmatch(name.lower()) for name in names]
    stems = {part and (part["stem"].rstrip("-_. ("), part["word"]) for part in found}
    (stem, *others) = stems
    return bool(stem) and not others and len(found) > 1 and bool(stem[1] or split_of(stem[0]))


def _refuse_pairs(folder: Path, names: Collection[str]) -> None:
    """Raise DataError for a folder of images beside one of masks, which are no classes."""
    plain = {name.lower() for name in names}
    if plain <= _IMAGES | _ANNOTATIONS and plain & _IMAGES and plain & _ANNOTATIONS:
        raise DataError(
            f"{folder} holds the folders {some_of(sorted(names))}, as images and masks for segmentation are "
            "stored; a classifier needs a class per image. Give each class a folder, or if these are "
            f"classes: --train_dir {folder}"
        )


def _refuse_what_could_be_splits(folder: Path, inside: Mapping[str, list[str]]) -> None:
    """Raise DataError unless the folders in a folder are certainly classes."""
    if _are_parts(inside) and not any(inside.values()):
        raise DataError(
            f"The folders {some_of(list(inside))} in {folder} look like parts of one data set, and nothing "
            "says what is in their images. Put a table beside them (labels.csv: image,label), or if each is "
            f"a class: --train_dir {folder}"
        )
    exact = [name for name in inside if is_exactly_a_split(name)]
    looking = [name for name in inside if _looks_like_a_split(name)]
    proven = bool(looking) and bool(_shared_names(inside))
    if not exact and not proven and 2 * len(looking) <= len(inside):
        return
    doubtful = exact or looking
    insist = "" if proven and len(looking) == len(inside) else f"If each is a class: --train_dir {folder}. "
    advice = f"name the folders of classes: {_flags(folder, doubtful)}."
    if not any(inside[name] for name in doubtful):
        advice = "their images need labels: class folders in each, or a table (train.csv: image,label)."
    raise DataError(
        f"{folder} holds the folders {some_of(list(inside))}, of which {some_of(doubtful)} could be splits "
        f"or classes. {insist}If they are splits, {advice}"
    )


def _looks_like_a_split(name: str) -> bool:
    in_words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)  # trainImages
    words = _WORD.findall(in_words.lower())
    return any(word in _SPLITS or _HINT.search(word) for word in words)


def _shared_names(inside: Mapping[str, list[str]]) -> set[str]:
    return set.intersection(*map(set, inside.values())) if inside else set()


def _notes_on_classes(inside: Mapping[str, list[str]]) -> tuple[str, ...]:
    shared = _shared_names(inside)
    notes = []
    if len(shared) > 1:
        notes.append(
            f"Every class folder has the folders {some_of(sorted(shared))}; the classes are the folders "
            "above."
        )
    named = [name for name in inside if split_of(name) is not None]
    if named:
        notes.append(
            f"{some_of(named)} {'is' if len(named) == 1 else 'are'} read as a class, not as a split."
        )
    return tuple(notes)


def _flags(folder: Path, names: list[str]) -> str:
    """What to type to have each of the folders as the split that its name tells of."""
    flags: dict[str, str] = {}
    for name in names:
        found = split_of(name) or next(
            (split for word, split in _SPLITS.items() if word in name.lower()), None
        )
        flags.setdefault(found or "train", f"--{found or 'train'}_dir {folder / name}")
    flags.setdefault("train", f"--train_dir {folder / 'FOLDER'}")
    return " ".join(flags[split] for split in ("train", "validation", "test") if split in flags)
