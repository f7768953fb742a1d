"""Data as people publish it: each layout is read right, or refused with what would do."""

import re
from pathlib import Path

import pytest
import timm

import resnet_hub
from resnet_hub.cli.main import main as resnet_hub_command
from resnet_hub.errors import DataError
from resnet_hub.finetuning.__main__ import main as finetune
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import ImageData, load_data
from tests.finetuning.image_files import encoded, picture

Files = dict[str, str | None]
"""Path -> text; None for an image."""


def lay(root: Path, files: Files) -> Path:
    for seed, (name, text) in enumerate(files.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(seed=seed), "JPEG") if text is None else text.encode())
    return root


def load(place: Path, **options: object) -> ImageData:
    config = FinetuneConfig(dataset_name=str(place), validation_fraction=0, test_fraction=0, **options)  # pyright: ignore[reportArgumentType]
    return load_data(config)


def images(pattern: str, count: int = 4, *, first: int = 0) -> Files:
    return {pattern.format(first + number): None for number in range(count)}


def classes(folder: str, *names: str) -> Files:
    return {path: None for name in names for path in images(f"{folder}/{name}/{{}}.jpg")}


def rows(header: str, row: str, *labels: str, count: int = 8) -> str:
    """A table whose rows are numbered, with the labels in turn."""
    return "\n".join([header, *(row.format(n, labels[n % len(labels)]) for n in range(count))])


PARTS = images("part_1/i{}.jpg") | images("part_2/i{}.jpg", first=4)
LESIONS = images("HAM_images_part_1/i{}.jpg") | images("HAM_images_part_2/i{}.jpg", first=4)
XRAYS = images("images_001/images/i{}.jpg") | images("images_002/images/i{}.jpg", first=4)

READ: dict[str, tuple[Files, tuple[str, ...], dict[str, int]]] = {
    "parts and a table": (
        PARTS | {"meta.csv": rows("image_id,dx", "i{},{}", "mel", "nv")},
        ("mel", "nv"),
        {"train": 8},
    ),
    "batches and a table": (
        images("batch_a/i{}.jpg") | images("batch_b/i{}.jpg", first=4)
        | {"labels.csv": rows("image,label,site", "i{}.jpg,{},x", "a", "b")},
        ("a", "b"), {"train": 8},
    ),
    "parts of class folders": (
        classes("part1", "cat", "dog") | classes("part2", "cat", "dog"), ("cat", "dog"), {"train": 16}
    ),
    "parts of train": (
        classes("train_1", "cat", "dog") | classes("train_2", "dog", "owl") | classes("val", "cat", "dog"),
        ("cat", "dog", "owl"), {"train": 16, "validation": 8},
    ),
    "parts of train and test": (
        classes("train-part1", "a", "b") | classes("train-part2", "a", "b")
        | classes("test_a", "a", "b") | classes("test_b", "a", "b"),
        ("a", "b"), {"train": 16, "test": 16},
    ),
    "numbered classes beside metadata": (
        classes(".", "1", "2") | {"metadata.csv": "file_name,date\n1/0.jpg,2020\n2/0.jpg,2021"},
        ("1", "2"), {"train": 8},
    ),
    "a table in another folder": (
        images("images/{}.jpg", 8) | {"annotations/labels.csv": rows("image,label", "{}.jpg,{}", "a", "b")},
        ("a", "b"), {"train": 8},
    ),
    "tables of splits in another folder": (
        images("images/train/{}.jpg", 8) | images("images/val/{}.jpg", 8)
        | {f"labels/{split}.csv": rows("image,label", "{}.jpg,{}", "a", "b") for split in ("train", "val")},
        ("a", "b"), {"train": 8, "validation": 8},
    ),
    "paths from a table in another folder": (
        images("pets/images/{}.jpg", 8)
        | {"pets/meta/labels.csv": rows("image,label", "../images/{}.jpg,{}", "a", "b")},
        ("a", "b"), {"train": 8},
    ),
    "columns of -1 and 1": (
        images("i{}.jpg", 8) | {"attr.csv": rows("image,cat,dog", "i{}.jpg,{}", "1,-1", "-1,1")},
        ("cat", "dog"), {"train": 8},
    ),
    "columns of classes and of splits": (
        images("i{}.jpg", 8) | {"gt.csv": rows("image,a,b,is_test", "i{}.jpg,{}", "1,0,1", "0,1,0")},
        ("a", "b"), {"train": 8},
    ),
    "an unusual column of splits": (
        images("i{}.jpg", 8)
        | {"gt.csv": rows("image,dx,data_split", "i{}.jpg,{}", "a,Train", "b,Train", "b,TEST", "a,TEST")},
        ("a", "b"), {"train": 4, "test": 4},
    ),
    "Windows, spaces, pipes": (
        images("pics/i{}.jpg", 8)
        | {"gt.csv": "\ufeff" + rows("image|label", ".\\pics\\i{}.jpg|{}\r", "a,b", "c")},
        ("a,b", "c"), {"train": 8},
    ),
    "a space after each comma": (
        images("i{}.jpg", 8) | {"gt.csv": rows("image, label", 'i{}.jpg, "{}"', "a, b", "c")},
        ("a, b", "c"), {"train": 8},
    ),
    "the lock of a spreadsheet": (
        images("i{}.jpg", 8) | {"gt.csv": rows("image,label", "i{}.jpg,{}", "a", "b"), "~$gt.csv": "\0"},
        ("a", "b"), {"train": 8},
    ),
    "train.csv and a part of it": (
        images("i{}.jpg", 8)
        | {f"{name}.csv": rows("image,label", "i{}.jpg,{}", "a", "b") for name in ("train", "train_small")},
        ("a", "b"), {"train": 8},
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[Files, str]] = {
    "lesions in parts": (
        LESIONS | {"meta.csv": rows("image_id,dx,sex", "i{},{}", "mel,f", "nv,m")},
        r"image_id \(Image\), dx \(string\).*--label_column_name dx",
    ),
    "X-rays in parts": (
        XRAYS | {"entry.csv": rows("Image Index,Finding Labels,Age", "i{}.jpg,{}", "a,1", "b|a,2")},
        r"--label_column_name 'Finding Labels'",
    ),
    "parts without a table": (PARTS, r"part_1, part_2 .* look like parts.*labels.csv.*--train_dir"),
    "parts of train without classes": (
        images("train_1/{}.jpg") | images("train_2/{}.jpg"),
        "train_1, train_2 .*parts of one data set.*--train_dir",
    ),
    "train and more": (
        classes("train", "a", "b") | classes("train_extra", "a", "b") | classes("test", "a", "b"),
        "train_extra.*--train_dir .*/train --test_dir",
    ),
    "two tables of train": (
        images("i{}.jpg", 8)
        | {f"train_{n}.csv": rows("image,label", "i{}.jpg,{}", "a", "b") for n in (1, 2)},
        r"train_1.csv, train_2.csv. Make one table.*--dataset_name .*train_1.csv",
    ),
    "images and masks": (
        images("images/{}.jpg") | images("masks/{}.png"),
        "images, masks.*segmentation.*--train_dir",
    ),
    "images and masks of splits": (
        {f"{split}/{path}": None for split in ("train", "val")
         for path in images("images/{}.jpg") | images("labels/{}.png")},
        "images, labels.*segmentation",
    ),
    "COCO": (
        images("train2017/{}.jpg") | images("val2017/{}.jpg") | {"annotations/instances.json": "{}"},
        "train2017, val2017 could be splits or classes.*their images need labels",
    ),
    "boxes in JSON": (images("{}.jpg") | {"_annotations.coco.json": "{}"}, r"coco.json is not read.*boxes"),
    "boxes of YOLO": (
        images("images/{}.jpg") | {f"labels/{n}.txt": "0 .5 .5 .1 .1" for n in range(4)},
        r"labels/\d.txt is not read.*boxes",
    ),
    "boxes of VOC": (
        images("JPEGImages/{}.jpg") | {f"Annotations/{n}.xml": "<a/>" for n in range(4)},
        r"labels.csv.*Annotations/\d.xml is not read",
    ),
    "a spreadsheet": (images("{}.jpg") | {"labels.xlsx": "PK"}, "labels.xlsx is a spreadsheet; save it as"),
    "absolute paths": (
        images("pics/{}.jpg") | {"labels.csv": rows("image,label", "/kaggle/pics/{}.jpg,{}", "a", "b")},
        r"'/kaggle/pics/0.jpg'.* has pics/0.jpg. Write paths from",
    ),
    "quantities in CSV": (
        images("i{}.jpg", 8) | {"labels.csv": rows("image,angle", "i{}.jpg,{}", "-0.5", "1.25", "2")},
        r"fractions such as -0.5.*--label_column_name",
    ),
    "probabilities of classes": (
        images("i{}.jpg", 8) | {"labels.csv": rows("image,cat,dog", "i{}.jpg,{}", "0.9,0.1", "0.2,0.8")},
        r"cat \(float64\), dog \(float64\).*--label_column_name cat",
    ),
    "signs that may be unknown": (
        images("i{}.jpg", 8) | {"labels.csv": rows("image,cat,dog", "i{}.jpg,{}", "1,-1", "0,1")},
        "--label_column_name cat",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_it_is_read_right(tmp_path: Path, name: str):
    files, names, sizes = READ[name]
    data = load(lay(tmp_path, files))
    assert data.class_names == names
    assert not data.multi_label
    assert {split: len(rows) for split, rows in data.splits.items()} == sizes


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_what_would_do(tmp_path: Path, name: str):
    files, message = REFUSED[name]
    with pytest.raises(DataError, match=f"(?s){message}"):
        load(lay(tmp_path, files))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    network = timm.create_model("my_resnet20", num_classes=2).eval()
    return str(
        resnet_hub.save_folder(network, tmp_path_factory.mktemp("model") / "m", class_names=["a", "b"])
    )


def run(command: str, place: Path, model: str) -> int:
    """The exit code of a command on a data set."""
    if command == "dry_run":
        no_test = ["--validation_fraction", "0.25", "--test_fraction", "0"]
        words = ["--dataset_name", str(place), "--model", "my_resnet20", "--no-pretrained", "--dry_run"]
        return finetune([*words, *no_test])
    if command == "inspect":
        return resnet_hub_command(["inspect", str(place), "--model", model, "--image_size", "32"])
    return resnet_hub_command([command, model, "--dataset_name", str(place)])


@pytest.mark.parametrize("command", ["dry_run", "inspect", "validate", "predict"])
@pytest.mark.parametrize("name", ["batches and a table", "tables of splits in another folder"])
def test_every_command_reads_it(tmp_path: Path, name: str, command: str, model: str):
    assert run(command, lay(tmp_path, READ[name][0]), model) == 0


@pytest.mark.parametrize("command", ["dry_run", "inspect", "validate"])
@pytest.mark.parametrize("name", ["parts without a table", "boxes of YOLO", "two tables of train"])
def test_every_command_that_needs_labels_refuses_it(
    tmp_path: Path, name: str, command: str, model: str, capsys: pytest.CaptureFixture[str]
):
    files, message = REFUSED[name]
    assert run(command, lay(tmp_path, files), model) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("name", ["COCO", "boxes of YOLO", "boxes of VOC", "two tables of train"])
def test_images_are_predicted_where_labels_cannot_be_told(tmp_path: Path, name: str, model: str):
    assert run("predict", lay(tmp_path, REFUSED[name][0]), model) == 0


@pytest.mark.parametrize("column", ["is_test", "fold", "Usage", "split"])
def test_a_column_that_may_tell_splits_and_does_not_is_noted(tmp_path: Path, column: str):
    table = rows(f"image,label,{column}", "i{}.jpg,{}", "a,0", "b,1", "a,1", "b,0")
    data = load(lay(tmp_path, images("i{}.jpg", 8) | {"labels.csv": table}))
    assert any(f"Column '{column}' of labels.csv (0, 1) is not used" in note for note in data.facts.notes)


def test_an_image_in_several_rows_is_noted(tmp_path: Path):
    table = rows("image,label", "i{}.jpg,{}", "a", "b") + "\ni0.jpg,a\n./i1.jpg,b"
    data = load(lay(tmp_path, images("i{}.jpg", 8) | {"labels.csv": table}))
    assert any("2 of 10 rows of labels.csv name an image that an earlier row" in n for n in data.facts.notes)


def test_a_table_whose_images_are_elsewhere_names_the_folder_to_give(tmp_path: Path):
    table = rows("image,label", "../images/{}.jpg,{}", "a", "b")
    root = lay(tmp_path, images("images/{}.jpg", 8) | {"meta/labels.csv": table})
    with pytest.raises(DataError, match=f"Give the folder that holds both: --dataset_name {root}$"):
        load(root / "meta" / "labels.csv")
