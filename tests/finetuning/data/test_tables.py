"""Tables that name images: what is read, what a cell means, and what is never opened."""

import json
from collections.abc import Sequence
from pathlib import Path

import datasets
import pandas as pd
import pytest

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import ImageData, load_data, load_split, open_images
from tests.finetuning.image_files import class_folders, encoded, picture

LABELS = ["cat", "dog"] * 10


def load(place: Path, **options: object) -> ImageData:
    return load_data(FinetuneConfig(dataset_name=str(place), **options))  # pyright: ignore[reportArgumentType]


def images(folder: Path, count: int = 20, *, first_seed: int = 0, suffix: str = ".jpg") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"i{number}{suffix}").write_bytes(encoded(picture(seed=first_seed + number), "JPEG"))
    return folder


def cells(*values: str) -> list[str]:
    """Rows of a table: each image in turn with one of the values."""
    return [f"i{number}.jpg,{values[number % len(values)]}" for number in range(20)]


def write(file: Path, header: str, rows: Sequence[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join((header, *rows)), encoding="utf-8")
    return file


def labels_of(data: ImageData) -> list[str]:
    """The class of each image, by the number in its file's name."""
    found = {}
    for split in data.splits.values():
        for row, label in zip(split.rows, split.labels, strict=True):
            number = int(Path(split.images.file_of(int(row))).stem[1:])
            found[number] = data.class_names[label]
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize(
    ("header", "cell", "file", "below"),
    [
        ("image,label", "i{}.jpg", "labels.csv", ""),
        ("id,breed", "i{}", "labels.csv", "train"),
        ("filename,class", "i{}.jpg", "annotations.csv", "images"),
        ("image_id;species", "i{}", "train.csv", "train_images"),
        ("path\tlabel", "photos/i{}.jpg", "list.tsv", "photos"),
        ("filepaths,labels", "./a/b/i{}.jpg", "data.csv", "a/b"),
        ("file_name,label", "i{}.jpg", "metadata.csv", ""),
        ("img,y", "photos\\i{}.jpg", "train.csv", "photos"),
    ],
)
def test_a_table_beside_images_says_what_they_are(tmp_path: Path, header, cell, file, below):
    images(tmp_path / "pets" / below)
    separator = header.strip("abcdefghijklmnopqrstuvwxyz_")
    rows = [cell.format(number) + separator + label for number, label in enumerate(LABELS)]
    write(tmp_path / "pets" / file, header, rows)
    for place in (tmp_path / "pets", tmp_path / "pets" / file):
        data = load(place)
        assert labels_of(data) == LABELS
        assert any(file in note for note in data.facts.notes)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tables_of_other_kinds_are_read_alike(tmp_path: Path, kind: str):
    images(tmp_path / "images")
    rows = [{"image": f"images/i{number}.jpg", "label": label} for number, label in enumerate(LABELS)]
    file = tmp_path / f"labels.{kind}"
    if kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, rows)))
    else:
        pd.DataFrame(rows).to_parquet(file)
    assert labels_of(load(tmp_path)) == labels_of(load(file)) == LABELS


def test_labels_as_lists_in_json_lines_are_multi_label(tmp_path: Path):
    images(tmp_path)
    rows = [{"image": f"i{n}.jpg", "tags": ["cat"] if n % 2 else ["cat", "dog"]} for n in range(20)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(tmp_path)
    assert data.multi_label
    assert data.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    "words", [("001", "002"), ("NA", "None"), ("nan", "null"), ("1.0", "1"), ("TRUE", "1e3")]
)
@pytest.mark.parametrize("file", ["labels.csv", "metadata.csv", "train.tsv"])
def test_a_word_in_a_table_is_the_class_that_stands_there(tmp_path: Path, words, file: str):
    images(tmp_path)
    separator = "\t" if file.endswith("tsv") else ","
    wanted = list(words) * 10
    write(
        tmp_path / file,
        f"file_name{separator}label",
        [f"i{n}.jpg{separator}{w}" for n, w in enumerate(wanted)],
    )
    data = load(tmp_path)
    assert data.class_names == tuple(sorted(words))
    assert labels_of(data) == list(words) * 10


def test_whole_numbers_are_classes_in_the_order_of_numbers(tmp_path: Path):
    images(tmp_path)
    write(tmp_path / "labels.csv", "image,label", cells("2", "10"))
    assert load(tmp_path).class_names == ("2", "10")


def test_an_empty_cell_is_a_missing_label_and_counted(tmp_path: Path):
    images(tmp_path)
    write(
        tmp_path / "labels.csv",
        "image,label",
        cells("a", "b", "", *"abababa"),
    )
    with pytest.raises(DataError, match=r"2 of 20 rows for train have no label in column label; .* row 2"):
        load(tmp_path)


def test_tables_named_like_splits_are_the_splits(tmp_path: Path):
    """As competitions are published: images of one name in both folders, a test table without labels."""
    images(tmp_path / "train")
    images(tmp_path / "test", 5, first_seed=50)
    write(tmp_path / "train.csv", "id,breed", [f"i{n},{label}" for n, label in enumerate(LABELS)])
    write(tmp_path / "test.csv", "id", [f"i{n}" for n in range(5)])
    write(tmp_path / "sample_submission.csv", "id,cat,dog", [f"i{n},0.5,0.5" for n in range(5)])
    data = load(tmp_path)
    assert labels_of(data) == LABELS
    assert data.test is None
    assert any("test has no labels" in note for note in data.facts.notes)
    assert any("sample_submission.csv" in note for note in data.facts.notes)
    write(tmp_path / "test.csv", "id,breed", [f"i{n},cat" for n in range(5)])
    assert len(load(tmp_path).test) == 5


def test_tables_in_the_folders_of_splits_are_read(tmp_path: Path):
    for number, split in enumerate(("train", "valid", "test")):
        images(tmp_path / split, 6, first_seed=50 * number)
        rows = [f"i{n}.jpg,{n % 2},{1 - n % 2},1" for n in range(6)]
        write(tmp_path / split / "_classes.csv", "filename, cat, dog, owl", rows)
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog", "owl")
    assert data.multi_label
    assert data.train.labels.tolist()[:2] == [[0, 1, 1], [1, 0, 1]]
    assert [len(split) for split in data.splits.values()] == [6, 6, 6]


def test_a_column_of_splits_is_used(tmp_path: Path):
    images(tmp_path)
    splits = ["train"] * 14 + ["val"] * 3 + ["test"] * 3
    write(
        tmp_path / "labels.csv",
        "image,label,split",
        [f"i{n}.jpg,{LABELS[n]},{split}" for n, split in enumerate(splits)],
    )
    data = load(tmp_path)
    assert [len(split) for split in data.splits.values()] == [14, 3, 3]


@pytest.mark.parametrize(("one", "zero"), [("1", "0"), ("1.0", "0.0"), ("True", "False")])
def test_a_column_of_zeros_and_ones_per_class_is_understood(tmp_path: Path, one: str, zero: str):
    images(tmp_path)
    rows = [(one, zero, one) if n % 2 else (zero, zero, zero) for n in range(20)]
    write(
        tmp_path / "labels.csv", "image,cat,dog,owl", [f"i{n}.jpg,{','.join(r)}" for n, r in enumerate(rows)]
    )
    data = load(tmp_path)
    assert data.multi_label
    assert data.class_names == ("cat", "dog", "owl")
    write(tmp_path / "labels.csv", "image,cat,dog", cells(f"{zero},{one}", f"{one},{zero}"))
    data = load(tmp_path)
    assert not data.multi_label
    assert labels_of(data) == ["dog", "cat"] * 10


def test_columns_that_are_not_all_indicators_are_refused_with_their_names(tmp_path: Path):
    images(tmp_path)
    write(tmp_path / "labels.csv", "image,cat,dog,date", cells("1,0,2024-01", "1,0,2024-02"))
    with pytest.raises(DataError, match=r"cat.*dog.*--label_column_name"):
        load(tmp_path)


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
@pytest.mark.parametrize("column", ["date", "photographer", "caption"])
@pytest.mark.parametrize("file", ["metadata.csv", "info.csv"])
def test_a_table_beside_class_folders_that_has_no_labels_is_told_of(tmp_path: Path, file, column, option):
    pets = class_folders(tmp_path / "pets", {"cat": 10, "dog": 10})
    rows = [f"{name}/{n}.jpg,{n}" for name in ("cat", "dog") for n in range(10)]
    write(pets / file, f"file_name,{column}", rows)
    config = {option: str(pets)}
    data = load_data(FinetuneConfig(**config))
    assert data.class_names == ("cat", "dog")
    (note,) = [note for note in data.facts.notes if file in note]
    assert f"--label_column_name {column}" in note
    asked = load_data(FinetuneConfig(**config, label_column_name=column))
    assert len(asked.class_names) == 10


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
def test_a_table_with_labels_beside_folders_is_believed_unless_it_says_the_same(tmp_path: Path, option: str):
    pets = class_folders(tmp_path / "pets", {"cat": 10, "dog": 10})
    names = [f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(10)]
    write(pets / "metadata.csv", "file_name,label", [f"{name},{'ab'[n % 2]}" for n, name in enumerate(names)])
    assert load_data(FinetuneConfig(**{option: str(pets)})).class_names == ("a", "b")
    write(pets / "metadata.csv", "file_name,label", [f"{name},{name[:3]}" for name in names])
    data = load_data(FinetuneConfig(**{option: str(pets)}))
    (pets / "metadata.csv").unlink()
    assert data.fingerprint == load_data(FinetuneConfig(**{option: str(pets)})).fingerprint


def test_rows_without_an_image_are_counted_and_too_many_refused(tmp_path: Path):
    images(tmp_path / "images")
    rows = cells("cat", "dog")
    write(tmp_path / "labels.csv", "image,label", [*rows, "gone.jpg,cat"])
    with pytest.raises(DataError, match=r"(?s)1 of 21 images .*gone.jpg: cannot be read: No such file"):
        load(tmp_path)
    data = load(tmp_path, max_bad_images=0.1)
    assert any(
        "1 of 21 rows of labels.csv name no image that is there: gone.jpg" in n for n in data.facts.notes
    )
    assert sum(len(split) for split in data.splits.values()) == 20


def test_images_that_no_row_names_are_counted(tmp_path: Path):
    images(tmp_path)
    write(tmp_path / "labels.csv", "image,label", cells("cat", "dog")[:18])
    assert any("2 images are in no row" in note for note in load(tmp_path).facts.notes)


def test_names_in_another_case_are_found_where_they_fit_one_image(tmp_path: Path):
    images(tmp_path / "Photos", suffix=".JPG")
    write(tmp_path / "labels.csv", "image,label", cells("cat", "dog"))
    assert labels_of(load(tmp_path)) == LABELS


def test_a_name_that_fits_two_images_is_not_guessed(tmp_path: Path):
    images(tmp_path)
    (tmp_path / "i3.png").write_bytes(encoded(picture(seed=99)))
    write(tmp_path / "labels.csv", "id,label", [f"i{n},{label}" for n, label in enumerate(LABELS)])
    data = load(tmp_path, max_bad_images=0.1)
    assert any("fit several images" in note and "i3" in note for note in data.facts.notes)
    assert len(data.bad_images) == 1


@pytest.mark.parametrize(
    "name", ["/etc/secret.jpg", "../secret.jpg", "a/../../secret.jpg", "link.jpg", "out/secret.jpg"]
)
def test_no_row_opens_a_file_outside_the_folder(tmp_path: Path, name: str):
    secret = tmp_path / "elsewhere" / "secret.jpg"
    secret.parent.mkdir()
    secret.write_bytes(encoded(picture(seed=500), "JPEG"))
    pets = images(tmp_path / "pets")
    (tmp_path / "secret.jpg").write_bytes(secret.read_bytes())
    (pets / "link.jpg").symlink_to(secret)
    (pets / "out").symlink_to(secret.parent)
    rows = cells("cat", "dog")
    write(pets / "labels.csv", "image,label", [*rows, f"{name},cat"])
    data = load(pets, max_bad_images=0.1)
    assert "names another place" in data.bad_images[0].problem
    assert any("outside" in note for note in data.facts.notes)


def test_a_table_none_of_whose_columns_names_images_is_refused_with_what_would_do(tmp_path: Path):
    images(tmp_path)
    write(
        tmp_path / "labels.csv",
        "image,label",
        [f"/home/me/{row}" for row in cells("cat", "dog")],
    )
    message = r"No column of .*labels.csv names images.*image '/home/me/i0.jpg'.* has i0.jpg"
    for place in (tmp_path, tmp_path / "labels.csv"):
        with pytest.raises(DataError, match=message):
            load(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,label\ni0.jpg,\xe9t\xe9\n", "not UTF-8"),
        (b"image,label\ni0.jpg,a,b,c\ni1.jpg\n", "labels.csv"),
        (b"i0.jpg,a\ni1.jpg,b\n", "labels.csv has no header"),
        (b"", "labels.csv"),
    ],
)
def test_a_broken_table_is_refused_by_its_name(tmp_path: Path, content: bytes, message: str):
    images(tmp_path)
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_several_tables_are_not_chosen_between(tmp_path: Path):
    images(tmp_path)
    for name in ("first.csv", "second.csv"):
        write(tmp_path / name, "image,label", cells("cat", "dog"))
    with pytest.raises(DataError, match=f"first.csv, second.csv.*--dataset_name {tmp_path}/first.csv"):
        load(tmp_path)
    assert labels_of(load(tmp_path / "second.csv")) == LABELS


def test_train_dir_and_its_companions_may_have_tables(tmp_path: Path):
    for number, split in enumerate(("train", "test")):
        images(tmp_path / split, first_seed=50 * number)
        write(
            tmp_path / split / "labels.csv",
            "image,label",
            cells("cat", "dog"),
        )
    data = load_data(FinetuneConfig(train_dir=tmp_path / "train", test_dir=tmp_path / "test"))
    assert len(data.test) == 20
    assert len(data.train) + len(data.validation) == 20


def test_predict_and_validate_read_the_same_tables(tmp_path: Path):
    images(tmp_path / "images")
    file = write(tmp_path / "test.csv", "image,label", cells("cat", "dog"))
    config = FinetuneConfig(dataset_name=str(file))
    assert len(load_split(config, None).split) == len(open_images(config, None)) == 20


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_single_file_with_images_is_a_data_set(tmp_path: Path, suffix: str):
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": encoded(picture(seed=n)), "path": None} for n in range(20)], "label": LABELS},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")}),
    )
    file = tmp_path / f"pets.{suffix}"
    if suffix == "parquet":
        rows.to_parquet(file)
    else:
        rows.save_to_disk(tmp_path / "saved")
        (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(file)
    data = load(file)
    assert data.dataset == "pets"
    assert data.class_names == ("cat", "dog")
