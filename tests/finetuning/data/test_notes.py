"""What the table and the report say of a data set that could be misread, before anything is trained."""

import io
import json
import tarfile
import unicodedata
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, List, Value

from resnet_hub.errors import ConfigError, DataError
from resnet_hub.finetuning.__main__ import main
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.dataset import ImageData
from resnet_hub.finetuning.data.load import load_data
from tests.finetuning.image_files import class_folders, encoded, picture, table

PETS = ClassLabel(names=["cat", "dog"])


def of_labels(folder: Path, labels: list, feature: object = Value("string"), **options) -> ImageData:
    datasets.DatasetDict(train=table(labels, feature)).save_to_disk(folder)
    return load_data(FinetuneConfig(dataset_name=str(folder), **options))


def note_of(data: ImageData, words: str) -> str:
    """The only note with these words, which the table and the report have too."""
    (found,) = [note for note in data.facts.notes if words in note]
    assert found in data.table()
    assert found in data.facts.record()["notes"]
    return found


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("cat", "Cat"), ("'cat' (6)", "'Cat' (6)")),
        (("dog", "dog "), ("'dog' (6)", "'dog ' (6)")),
        (
            ("caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")),
            ("'caf\u00e9' (6)", "'cafe\\u0301' (6)"),
        ),
        (("eel", "e\u200bel"), ("'eel' (6)", "'e\\u200bel' (6)")),
        (("red_fox", "Red fox"), ("'red_fox' (6)", "'Red fox' (6)")),
        (("sea\u00a0cow", "sea cow"), ("'sea cow' (6)", "sea\\xa0cow' (6)")),
    ],
    ids=ascii,
)
def test_near_equal_names_are_noted_with_their_counts(tmp_path: Path, names: tuple, shown: tuple):
    note = note_of(of_labels(tmp_path, [*names, "wolf"] * 6), "differ only in case")
    assert all(part in note for part in shown)
    assert "wolf" not in note


def test_other_names_are_not_near_equal(tmp_path: Path):
    data = of_labels(tmp_path, ["cat", "cart", "1", "01", "caf\u00e9", "cafe", "+", "-"] * 5)
    assert not [note for note in data.facts.notes if "differ only" in note]


@pytest.mark.parametrize(
    "names",
    [
        ("[1, 0]", "[0, 1]"),
        ("{'a'}", "{'b'}"),
        ("['cat']", "['cat', 'dog']"),
        ("cat|dog", "cat", "dog"),
        ("cat, dog", "cat", "dog"),
    ],
)
def test_lists_that_were_written_as_text_are_noted(tmp_path: Path, names: tuple):
    note_of(of_labels(tmp_path, list(names) * 8), "look like lists written as text")


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
def test_an_image_in_two_classes_is_noted_with_both_places(tmp_path: Path, option: str):
    folder = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    (folder / "dog" / "copy.jpg").write_bytes((folder / "cat" / "3.jpg").read_bytes())
    note = note_of(load_data(FinetuneConfig(**{option: str(folder)})), "Contradictory labels: 1 images")
    assert f"{folder / 'cat' / '3.jpg'} (cat)" in note
    assert f"{folder / 'dog' / 'copy.jpg'} (dog)" in note


def test_an_image_in_two_classes_of_two_splits_is_noted(tmp_path: Path):
    rows = {"train": table([0, 1] * 5, PETS), "validation": table([1, 0], PETS, first_seed=0)}
    datasets.DatasetDict(rows).save_to_disk(tmp_path)  # pyright: ignore[reportArgumentType]
    note_of(load_data(FinetuneConfig(dataset_name=str(tmp_path))), "Contradictory labels: 2 images")


def test_the_same_image_twice_in_one_class_is_no_contradiction(tmp_path: Path):
    folder = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    (folder / "cat" / "copy.jpg").write_bytes((folder / "cat" / "3.jpg").read_bytes())
    assert "Contradictory" not in load_data(FinetuneConfig(train_dir=folder)).table()


def test_several_kinds_of_pixels_are_noted(tmp_path: Path):
    folder = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    for number, (mode, format) in enumerate((("L", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"))):
        image = picture(seed=100 + number, mode=mode)
        (folder / "cat" / f"{mode}.{format.lower()}").write_bytes(encoded(image, format))
    data = load_data(FinetuneConfig(train_dir=folder))
    note = note_of(data, "4 kinds of pixels")
    assert all(f"{mode} 1" in note for mode in ("L", "RGBA", "CMYK"))
    assert data.facts.record()["image_kinds"] == {"JPEG RGB": 16, "PNG L": 1, "PNG RGBA": 1, "JPEG CMYK": 1}


def test_a_class_without_an_image_in_a_split_is_noted(tmp_path: Path):
    data = of_labels(tmp_path, ["cat", "dog"] * 20 + ["eel"])
    assert "validation has no image of these classes of train: eel." in data.facts.notes
    assert "test has no image of these classes of train: eel." in data.facts.notes


def test_imbalance_names_the_classes_and_what_helps(tmp_path: Path):
    note = note_of(of_labels(tmp_path, ["cat"] * 60 + ["dog"] * 5), "times the images of the rarest")
    assert "(cat 42, dog 3)" in note
    assert "--class_weights balanced" in note


@pytest.mark.parametrize(
    ("feature", "labels"),
    [
        (Value("string"), [f"a photo of {n} cats" for n in range(12)]),
        (Value("int64"), list(range(100, 130))),
        (List(Value("string")), [[f"{n}.jpg"] for n in range(5)]),
    ],
    ids=str,
)
def test_a_label_for_each_image_is_refused(tmp_path: Path, feature: object, labels: list):
    with pytest.raises(
        DataError, match=r"Each of the \d+ training images .*column label.*--label_column_name"
    ):
        of_labels(tmp_path, labels, feature)


def test_many_classes_of_one_image_are_noted(tmp_path: Path):
    data = of_labels(tmp_path, [f"class {n}" for n in range(20)] + ["common"] * 20)
    note_of(data, "20 of 21 classes have a single training image")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("x" * 1001, "cat"), "has 1,001 of at most 1,000 characters"),
        (tuple(f"{n:04d}" + "\u4e00" * 990 for n in range(2900)), "MiB"),
    ],
    ids=["a long name", "a large table"],
)
def test_names_that_no_export_can_hold_are_refused_before_training(
    tmp_path: Path, names: tuple, message: str
):
    rows = table([0, 1] * 4, ClassLabel(names=list(names)))
    rows.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match=f"could not be saved: .*{message}.*--label_column_name"):
        load_data(FinetuneConfig(dataset_name=str(tmp_path)))


def test_names_of_a_thousand_characters_can_be_saved(tmp_path: Path):
    assert of_labels(tmp_path, ["x" * 1000, "cat"] * 8).class_names == ("cat", "x" * 1000)


@pytest.mark.parametrize(
    ("feature", "values", "said"),
    [
        (PETS, [0, 1], "single-label, from column 'label' (one class per row)"),
        (List(Value("int64")), [[1, 0], [0, 1]], "single-label, from column 'label' (indicator vectors)"),
        (List(Value("bool")), [[True, True], [False, True]], "multi-label, from column 'label' (indicator"),
        (List(PETS), [[0], [0, 1]], "multi-label, from column 'label' (lists of classes)"),
        (List(PETS), [[0], [1]], "single-label, from column 'label' (lists of one class)"),
    ],
    ids=str,
)
def test_the_table_says_how_labels_were_read(tmp_path: Path, feature: object, values: list, said: str):
    data = of_labels(tmp_path, values * 10, feature)
    assert said in data.table()
    assert data.facts.record()["labels_read"].startswith(said)


def test_the_table_has_a_row_for_each_of_at_most_twenty_classes(tmp_path: Path):
    names = [f"kind {n}" for n in range(20)]
    lines = of_labels(tmp_path / "few", names * 10).table().splitlines()
    header = next(
        number for number, line in enumerate(lines) if line.split() == ["train", "validation", "test"]
    )
    rows = [line.split() for line in lines[header + 1 : header + 21]]
    assert [" ".join(row[:2]) for row in rows] == sorted(names)
    assert all(sum(map(int, row[2:])) == 10 for row in rows)
    assert "kind 7 " not in of_labels(tmp_path / "many", [*names, "more"] * 10).table()


@pytest.mark.parametrize("options", [{}, {"test_fraction": 0.0, "validation_fraction": 0.0}])
def test_samples_are_stratified_and_keyed_by_the_seed(tmp_path: Path, options: dict):
    labels = ["cat"] * 60 + ["dog"] * 30 + ["eel"] * 10
    datasets.DatasetDict(train=table(labels, Value("string"))).save_to_disk(tmp_path)

    def sampled(seed: int) -> ImageData:
        config = FinetuneConfig(
            dataset_name=str(tmp_path), max_train_samples=20, max_eval_samples=6, seed=seed, **options
        )
        return load_data(config)

    data, again, other = sampled(0), sampled(0), sampled(1)
    assert data.facts.class_counts["train"] == (12, 6, 2)
    assert "20 of" in data.train.how
    assert "stratified, seed 0" in data.train.how
    assert all(len(split) == 6 for split in data.evaluated.values())
    assert data.fingerprint == again.fingerprint
    assert not np.array_equal(data.mapped_train.rows, other.mapped_train.rows)


def test_a_sample_has_every_class_if_it_can(tmp_path: Path):
    labels = ["cat"] * 200 + ["dog"] * 2 + ["eel"] * 2
    data = of_labels(tmp_path, labels, validation_fraction=0.0, test_fraction=0.0, max_train_samples=4)
    assert min(data.facts.class_counts["train"]) >= 1
    assert len(data.train) == 4


def test_a_sample_larger_than_the_split_is_the_split(tmp_path: Path):
    data = of_labels(tmp_path, ["cat", "dog"] * 10, max_train_samples=10_000)
    assert sum(map(len, data.splits.values())) == 20
    assert "10,000" not in data.train.how


def test_only_images_of_the_sample_are_looked_at_where_no_split_is_made(tmp_path: Path):
    folder = class_folders(tmp_path / "pets" / "train", {"cat": 20, "dog": 20})
    class_folders(tmp_path / "pets" / "validation", {"cat": 3, "dog": 3}, first_seed=50)
    for path in folder.glob("*/*.jpg"):
        if int(path.stem) >= 2:
            path.write_bytes(b"broken")
    config = FinetuneConfig(
        dataset_name=str(tmp_path / "pets"), test_fraction=0.0, max_train_samples=4, max_bad_images=0.9
    )
    data = load_data(config)
    assert len(data.train) + len(data.bad_images) == 4


@pytest.mark.parametrize("options", [{"max_train_samples": 0}, {"max_eval_samples": -1}])
def test_a_sample_has_an_image_at_least(options: dict):
    with pytest.raises(ConfigError, match="1 or more"):
        FinetuneConfig(dataset_name="any", **options)


def test_a_stream_has_no_samples():
    with pytest.raises(ConfigError, match=r"--train_split 'train\[:1000\]'"):
        FinetuneConfig(dataset_name="any", streaming=True, max_train_samples=10)


def test_indicator_vectors_are_not_streamed_as_sets(tmp_path: Path):
    vectors = [[1, 0], [0, 1]] * 8
    for split in ("train", "validation"):
        table(vectors, List(PETS)).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"indicator vectors.*--streaming"):
        load_data(FinetuneConfig(dataset_name=str(tmp_path), streaming=True, test_fraction=0.0))


@pytest.mark.parametrize(
    ("labels", "feature", "said"),
    [
        ([[1, -1], [0, 1]] * 6, List(Value("int64")), "have no label in column label"),
        (["cat", None] * 6, Value("string"), "have no label in column label"),
        ([f"photo {n}" for n in range(12)], Value("string"), "has a label of its own"),
        (["x" * 1001, "cat"] * 6, Value("string"), "could not be saved"),
        ([0.5, 1.0] * 6, Value("float64"), "fractions such as 0.5"),
    ],
    ids=["missing items", "nulls", "captions", "a long name", "fractions"],
)
def test_a_dry_run_finds_it(tmp_path: Path, labels: list, feature: object, said: str, capsys):
    table(labels, feature).to_parquet(tmp_path / "train.parquet")
    words = ["--dataset_name", str(tmp_path), "--model", "my_resnet20", "--no-pretrained", "--dry_run"]
    assert main([*words, "--output_dir", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_shard_of_webdataset_is_read_by_its_endings(tmp_path: Path):
    for name, written in (
        ("cls", lambda n: str(n % 2)),
        ("json", lambda n: json.dumps({"label": n % 2, "id": n})),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with tarfile.open(folder / "train-000.tar", "w") as shard:
            for number in range(20):
                files = {"jpg": encoded(picture(seed=number), "JPEG"), name: written(number).encode()}
                for ending, content in files.items():
                    member = tarfile.TarInfo(f"{number:05d}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        data = load_data(FinetuneConfig(dataset_name=str(folder)))
        assert data.class_names == ("0", "1")
        assert sum(map(len, data.splits.values())) == 20
