"""Data that a caller holds in memory are read as data on the disk are, or refused in words that help."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.dataset import ImageData
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.data.sources import open_in_memory

from ..image_files import encoded, picture

NUMBER = 12
NAMES = ["cat", "dog", "eel"] * 4
NO_SPLITS = {"validation_fraction": 0, "test_fraction": 0}


def read(data: Any, **options: Any) -> ImageData:
    config = FinetuneConfig(**NO_SPLITS | options)
    return load_data(config, source=open_in_memory(data, config))


def pictures(**how: Any) -> list[Image.Image]:
    return [picture(seed=seed, **how) for seed in range(NUMBER)]


def files(folder: Path) -> list[Path]:
    paths = [folder / f"{seed}.png" for seed in range(NUMBER)]
    for image, path in zip(pictures(), paths, strict=True):
        image.save(path)
    return paths


FORMS: dict[str, Callable[[Path], list[Any]]] = {
    "PIL": lambda folder: pictures(),
    "paths": files,
    "paths as text": lambda folder: [str(path) for path in files(folder)],
    "bytes": lambda folder: [encoded(image) for image in pictures()],
    "arrays": lambda folder: [np.asarray(image) for image in pictures()],
    "opened files": lambda folder: [Image.open(path) for path in files(folder)],
    "rows of datasets": lambda folder: [{"bytes": encoded(image), "path": None} for image in pictures()],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["list", "DataFrame", "Dataset"])
def test_images_of_every_form_have_the_same_pixels(form: str, kind: str, tmp_path: Path):
    images = FORMS[form](tmp_path)
    if kind == "list":
        data = read(list(zip(images, NAMES, strict=True)))
    elif kind == "DataFrame":
        data = read(pd.DataFrame({"when": range(NUMBER), "photo": images, "label": NAMES}))
    else:
        columns = {"image": list(map(str, images)) if form == "paths" else images, "label": NAMES}
        data = read(datasets.Dataset.from_dict(columns))
    assert data.class_names == ("cat", "dog", "eel")
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    for image, original in zip(map(data.train.image, range(NUMBER)), pictures(), strict=True):
        assert image.convert("RGB").tobytes() == original.tobytes()


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]
)
def test_images_of_every_mode_can_be_given(mode: str):
    gray = [image.convert("L") for image in pictures()]
    converted = [image.convert("RGB").convert(mode) if mode != "LAB" else image for image in gray]
    data = read(list(zip(converted, NAMES, strict=True)))
    assert not data.bad_images
    assert data.train.image(0).size == (40, 30)


LABELS: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "text": (NAMES, ("cat", "dog", "eel")),
    "int": ([0, 1, 2] * 4, ("0", "1", "2")),
    "bool": ([True, False, True] * 4, ("False", "True")),
    "NumPy int": (list(np.array([0, 1, 2] * 4)), ("0", "1", "2")),
    "NumPy bool": (list(np.array([True, False, True] * 4)), ("False", "True")),
    "NumPy text": (list(np.array(NAMES)), ("cat", "dog", "eel")),
    "whole floats": ([0.0, 1.0, 2.0] * 4, ("0", "1", "2")),
    "tensors": (list(torch.tensor([0, 1, 2] * 4)), ("0", "1", "2")),
    "categories": (pd.Series(NAMES, dtype="category").tolist(), ("cat", "dog", "eel")),
    "lists of one": ([[name] for name in NAMES], ("cat", "dog", "eel")),
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_of_every_type_are_classes(form: str):
    labels, names = LABELS[form]
    data = read(list(zip(pictures(), labels, strict=True)))
    assert data.class_names == names
    assert not data.multi_label


@pytest.mark.parametrize("form", ["lists", "tuples", "sets", "vectors", "columns"])
def test_several_labels_per_image_are_understood(form: str):
    made = [("cat", "dog"), ("dog",), ("cat", "eel")] * 4
    vectors = [[int(name in labels) for name in ("cat", "dog", "eel")] for labels in made]
    labels: dict[str, list[Any]] = {
        "lists": [list(names) for names in made],
        "tuples": made,
        "sets": [set(names) for names in made],
        "vectors": list(np.array(vectors)),
    }
    if form == "columns":
        table = pd.DataFrame(vectors, columns=["cat", "dog", "eel"]).assign(image=pictures())
        data = read(table)
    else:
        data = read(list(zip(pictures(), labels[form], strict=True)))
    assert data.multi_label
    assert np.asarray(data.train.labels).tolist() == vectors


def test_splits_are_found_by_name_and_by_a_column():
    half = NUMBER // 2
    pairs = list(zip(pictures(), NAMES, strict=True))
    by_name = read({"train": pairs[:half], "val": pairs[half:]})
    assert [len(by_name.train), len(by_name.validation or ())] == [half, half]
    table = pd.DataFrame(pairs, columns=["image", "label"])
    table["split"] = ["train"] * half + ["test"] * half
    by_column = read(table)
    assert [len(by_column.train), len(by_column.test or ())] == [half, half]


def test_a_dataset_is_read_as_it_is_whatever_format_it_is_in():
    features = datasets.Features({"pic": datasets.Image(), "kind": datasets.ClassLabel(names=["b", "a"])})
    rows = {"pic": pictures(), "kind": [0, 1] * 6}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    chosen = dataset.select(range(4, 12)).with_format("torch")
    data = read(datasets.DatasetDict({"train": chosen, "test": dataset.select(range(4))}))
    assert data.class_names == ("b", "a")
    assert [len(data.train), len(data.test or ())] == [8, 4]


def test_columns_can_be_named():
    table = pd.DataFrame({"a": pictures(), "b": list(reversed(pictures())), "x": NAMES, "y": [0, 1] * 6})
    data = read(table, image_column_name="b", label_column_name="y")
    assert data.class_names == ("0", "1")
    assert data.train.image(0).tobytes() == pictures()[-1].tobytes()


def test_paths_begin_in_the_current_folder_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    paths = [f"~/{n}.png" if n % 2 else f"{n}.png" for n in range(NUMBER)]
    assert len(read(list(zip(paths, NAMES, strict=True))).train) == NUMBER


def test_a_torch_dataset_brings_its_class_names():
    class Pictures(torch.utils.data.Dataset):
        classes = ("cat", "dog", "eel")

        def __len__(self) -> int:
            return NUMBER

        def __getitem__(self, number: int) -> tuple[Image.Image, int]:
            return picture(seed=number % NUMBER), number % 3

    assert read(Pictures()).class_names == ("cat", "dog", "eel")


def test_the_content_decides_whether_data_are_the_same():
    def prints(images: list[Image.Image], labels: list[str] = NAMES) -> str:
        return read(list(zip(images, labels, strict=True))).fingerprint

    assert prints(pictures()) == prints(pictures())
    assert prints(pictures()) != prints(list(reversed(pictures())))
    assert prints(pictures()) != prints(pictures(), ["dog", *NAMES[1:]])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (lambda: [], "no images"),
    "a generator": (lambda: iter([]), "list_iterator is not a kind of data set. Give a datasets.Dataset"),
    "images alone": (pictures, "Item 0 of the data set is a Image, not a pair"),
    "a stream": (lambda: datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset(), "streaming=True"),
    "paths that lead nowhere": (
        lambda: [("nope.png", "cat"), ("no.png", "dog")],
        "first row has image 'nope",
    ),
    "floats": (lambda: [(np.zeros((8, 8, 3)), 1)] * 4, "Image 0 of the data set is an array of float64"),
    "a tensor": (lambda: [(torch.zeros(3, 8, 8), 1)] * 4, "is no image but a Tensor"),
    "one class": (lambda: [(image, "cat") for image in pictures()], "same label 'cat'"),
    "a missing label": (
        lambda: list(zip(pictures(), [None, *NAMES[1:]], strict=True)),
        "1 of 12 rows for train have no label",
    ),
    "fractions": (lambda: list(zip(pictures(), [0.5, 1.0, 2.0] * 4, strict=True)), "fractions such as 0.5"),
    "no labels": (lambda: pd.DataFrame({"image": pictures()}), "No column holds labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_data_set_is_refused(case: str):
    make, words = REFUSED[case]
    with pytest.raises(DataError, match=words):
        read(make())
