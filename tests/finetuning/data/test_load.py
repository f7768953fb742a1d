"""Data sets from every source, split, counted and fingerprinted."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, List

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import ImageData, load_data
from resnet_hub.finetuning.data.roles import stratified_sides
from tests.finetuning.image_files import class_folders, encoded, picture, table

PETS = ClassLabel(names=["cat", "dog"])
HALF = [0, 1] * 20


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(FinetuneConfig(dataset_name="digits"))


def of_folder(folder: Path, **options: object) -> ImageData:
    return load_data(FinetuneConfig(dataset_name=str(folder), **options))  # pyright: ignore[reportArgumentType]


def saved(folder: Path, **splits: datasets.Dataset) -> Path:
    datasets.DatasetDict(splits).save_to_disk(folder)  # pyright: ignore[reportArgumentType]
    return folder


def test_digits_are_the_scans_of_scikit_learn(digits: ImageData):
    from sklearn.datasets import load_digits

    scans = load_digits(as_frame=False)
    assert digits.class_names == tuple("0123456789")
    assert sum(len(split) for split in digits.splits.values()) == 1797
    position = 5
    row = digits.test.rows[position]
    pixels = np.asarray(digits.test.image(position, "L"))
    assert np.array_equal(pixels, np.rint(scans["images"][row] * 255 / 16))
    assert digits.test.labels[position] == scans["target"][row]


def test_splits_that_are_made_are_disjoint_complete_and_stratified(digits: ImageData):
    rows = np.concatenate([split.rows for split in digits.splits.values()])
    assert sorted(rows) == list(range(1797))
    for name in ("validation", "test"):
        counts = np.array(digits.facts.class_counts[name])
        expected = 0.15 * np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
        assert np.abs(counts - expected).max() < 1
    assert "seed 0" in digits.splits["test"].how


def test_splits_and_fingerprint_are_a_function_of_the_seed(digits: ImageData):
    again = load_data(FinetuneConfig(dataset_name="digits"))
    other = load_data(FinetuneConfig(dataset_name="digits", seed=1))
    assert again.fingerprint == digits.fingerprint
    assert other.fingerprint != digits.fingerprint
    assert not np.array_equal(other.test.rows, digits.test.rows)


def test_a_folder_of_class_folders_is_a_data_set(tmp_path: Path):
    data = of_folder(class_folders(tmp_path / "pets", {"cat": 10, "dog": 20}))
    assert data.dataset == "pets"
    assert data.class_names == ("cat", "dog")
    counts = data.facts.class_counts
    assert [sum(found) for found in zip(*counts.values(), strict=True)] == [10, 20]
    assert all(4 <= sum(counts[name]) <= 5 for name in ("validation", "test"))
    assert data.train.image(0).size == (40, 30)


@pytest.mark.parametrize("folder", ["pets/train", "pets"])
def test_a_training_folder_gives_the_data_set_its_name_or_that_of_the_folder_above(
    tmp_path: Path, folder: str
):
    train = class_folders(tmp_path / folder, {"cat": 10, "dog": 20})
    assert load_data(FinetuneConfig(train_dir=train)).dataset == "pets"
    assert of_folder(train).dataset == "pets"
    titled = FinetuneConfig(train_dir=train, dataset_title="Cats and dogs")
    assert load_data(titled).dataset == "Cats and dogs"


def test_folders_named_after_splits_are_the_splits(tmp_path: Path):
    for seed, split in ((0, "train"), (50, "val"), (90, "test")):
        class_folders(tmp_path / "pets" / split, {"cat": 4, "dog": 6}, first_seed=seed)
    data = of_folder(tmp_path / "pets")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 10,
        "validation": 10,
        "test": 10,
    }


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
def test_the_class_is_the_folder_on_the_first_level_whatever_is_in_it(tmp_path: Path, option: str):
    """`datasets` would take the years for the classes."""
    for name, first_seed in (("cat", 0), ("dog", 20)):
        class_folders(tmp_path / "pets" / name, {"2021": 4, "2022": 6}, first_seed=first_seed)
    (tmp_path / "pets" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "pets" / "cat" / "._0.jpg").write_bytes(b"from a Mac")
    data = load_data(FinetuneConfig(**{option: str(tmp_path / "pets")}))
    assert data.class_names == ("cat", "dog")
    assert sum(len(split) for split in data.splits.values()) == 20


def test_an_image_beside_the_class_folders_is_named_and_left_out(tmp_path: Path):
    folder = class_folders(tmp_path / "pets", {"cat": 10, "dog": 10, "eel": 0})
    (folder / "preview.png").write_bytes(encoded(picture(seed=99)))
    data = load_data(FinetuneConfig(train_dir=folder))
    assert sum(len(split) for split in data.splits.values()) == 20
    assert data.class_names == ("cat", "dog")
    notes = " ".join(data.facts.notes)
    assert "belong to no class, among them preview.png" in notes
    assert "No image is in eel" in notes


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
def test_what_lies_beside_class_folders_takes_no_class_away(tmp_path: Path, option: str):
    elsewhere = class_folders(tmp_path / "elsewhere", {"cat": 5})
    pets = class_folders(tmp_path / "pets", {"dog": 5, "eel": 5}, first_seed=20)
    (pets / "cat").symlink_to(elsewhere / "cat")
    (pets / "docs").mkdir()
    (pets / "docs" / "notes.txt").write_text("taken in May")
    (pets / "classes.json").write_text("{}")
    (pets / "dog" / "metadata.txt").write_text("taken in June")
    data = load_data(FinetuneConfig(**{option: str(pets)}))
    assert data.class_names == ("cat", "dog", "eel")


def test_a_link_makes_no_image_one_of_two_classes(tmp_path: Path):
    pets = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    (pets / "cat" / "up").symlink_to("..")
    (pets / "cat" / "beside").symlink_to(pets / "dog")
    (pets / "cat" / "itself").symlink_to("itself")
    data = load_data(FinetuneConfig(train_dir=pets))
    assert [sum(found) for found in zip(*data.facts.class_counts.values(), strict=True)] == [8, 8]
    (pets / "kitty").symlink_to(pets / "cat")
    with pytest.raises(DataError, match=r"cat and kitty in .* are one folder by two names"):
        load_data(FinetuneConfig(train_dir=pets))


def test_a_name_that_is_no_text_is_refused_by_its_name(tmp_path: Path):
    pets = class_folders(tmp_path / "pets", {"cat": 4, "dog": 4})
    (pets / "cat" / "0.jpg").rename(os.fsdecode(bytes(pets / "cat") + b"/\xff.jpg"))
    with pytest.raises(DataError, match=r"udcff\.jpg' is not UTF-8. Rename"):
        load_data(FinetuneConfig(train_dir=pets))


def test_folders_without_two_classes_are_refused_with_what_they_hold(tmp_path: Path):
    one = class_folders(tmp_path / "one", {"cat": 10})
    with pytest.raises(DataError, match="one class only, 'cat'"):
        load_data(FinetuneConfig(train_dir=one))
    splits = tmp_path / "splits"
    for name in ("train", "val"):
        class_folders(splits / name, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=f"splits train, val and not classes. Use --dataset_name {splits}"):
        load_data(FinetuneConfig(train_dir=splits))
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes(encoded(picture()))
    with pytest.raises(DataError, match="no class folders with images"):
        load_data(FinetuneConfig(train_dir=flat))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_folder_with_metadata_is_a_data_set(tmp_path: Path, kind: str):
    rows = [(f"{number}.png", ("cat", "dog")[number % 2]) for number in range(30)]
    for number, (name, _) in enumerate(rows):
        (tmp_path / name).write_bytes(encoded(picture(seed=number)))
    lines = (
        ["file_name,label", *(f"{name},{label}" for name, label in rows)]
        if kind == "csv"
        else [f'{{"file_name": "{name}", "label": "{label}"}}' for name, label in rows]
    )
    (tmp_path / f"metadata.{kind}").write_text("\n".join(lines))
    data = of_folder(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert [sum(found) for found in zip(*data.facts.class_counts.values(), strict=True)] == [15, 15]


def test_train_dir_and_its_companions_are_the_splits(tmp_path: Path):
    config = FinetuneConfig(
        train_dir=class_folders(tmp_path / "a", {"cat": 4, "dog": 4}),
        validation_dir=class_folders(tmp_path / "b", {"cat": 2, "dog": 3}, first_seed=20),
        test_dir=class_folders(tmp_path / "c", {"dog": 3}, first_seed=40),
    )
    data = load_data(config)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 8,
        "validation": 5,
        "test": 3,
    }
    assert data.test.labels.tolist() == [1, 1, 1]


def test_a_class_that_only_validation_has_is_reported(tmp_path: Path):
    config = FinetuneConfig(
        train_dir=class_folders(tmp_path / "a", {"cat": 8, "dog": 8}),
        validation_dir=class_folders(tmp_path / "b", {"cat": 2, "eel": 3}, first_seed=20),
    )
    data = load_data(config)
    assert data.class_names == ("cat", "dog", "eel")
    assert any("3 labels of validation are of classes that train lacks" in note for note in data.facts.notes)


@pytest.mark.parametrize("features_are_stored", [True, False])
def test_a_folder_of_parquet_is_a_data_set(tmp_path: Path, features_are_stored: bool):
    source = table(HALF, PETS)
    if features_are_stored:
        source.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    else:
        source.cast_column("image", datasets.Image(decode=False)).to_pandas().to_parquet(
            tmp_path / "train-00000-of-00001.parquet"
        )
    data = of_folder(tmp_path)
    assert data.class_names == (("cat", "dog") if features_are_stored else ("0", "1"))
    assert len(data.train) == 28


def test_a_saved_data_set_is_a_data_set(tmp_path: Path):
    saved(tmp_path / "pets", train=table(HALF, PETS), dev=table([0, 1], PETS, first_seed=90))
    data = of_folder(tmp_path / "pets")
    assert len(data.validation) == 2
    assert data.validation.how == "dev of the data set"
    table(HALF, PETS).save_to_disk(tmp_path / "single")
    assert len(of_folder(tmp_path / "single").train) == 28


def test_slices_and_sums_of_splits_are_splits(tmp_path: Path):
    saved(tmp_path, train=table(HALF, PETS), extra=table([0, 1], PETS, first_seed=90))
    data = of_folder(
        tmp_path, train_split="train[:50%]+extra", validation_split="train[20:30]", test_split="train[30:]"
    )
    assert [len(split) for split in data.splits.values()] == [22, 10, 10]
    assert data.train.rows.tolist() == [*range(20), 40, 41]


def test_rows_that_train_and_measure_are_refused(tmp_path: Path):
    saved(tmp_path, train=table(HALF, PETS))
    with pytest.raises(DataError, match="share 10 rows"):
        of_folder(tmp_path, train_split="train[:75%]", validation_split="train[20:]")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_split": "trian"}, "did you mean 'train'"),
        ({"validation_split": "train[x:]"}, "is not a split or slice"),
        ({"train_split": "train[5:5]"}, "no images"),
        ({"label_column_name": "lable"}, "did you mean 'label'"),
        ({"image_column_name": "imag"}, "did you mean 'image'"),
    ],
)
def test_what_the_data_set_lacks_gets_the_nearest_name(tmp_path: Path, options: dict, message: str):
    with pytest.raises(DataError, match=message):
        of_folder(saved(tmp_path, train=table(HALF, PETS)), **options)


def test_a_data_set_without_a_train_split_asks_for_one(tmp_path: Path):
    saved(tmp_path, first=table(HALF, PETS), second=table(HALF, PETS))
    with pytest.raises(DataError, match="--train_split first"):
        of_folder(tmp_path)


def test_an_unknown_folder_gets_the_nearest_one(tmp_path: Path):
    class_folders(tmp_path / "flowers", {"rose": 1})
    for config in (
        FinetuneConfig(dataset_name=str(tmp_path / "flower")),
        FinetuneConfig(train_dir=tmp_path / "flower"),
    ):
        with pytest.raises(DataError, match="did you mean 'flowers'"):
            load_data(config)


def test_a_file_is_not_a_folder_of_images(tmp_path: Path):
    (tmp_path / "cat.jpg").write_bytes(encoded(picture(), "JPEG"))
    with pytest.raises(DataError, match="is a file"):
        load_data(FinetuneConfig(train_dir=tmp_path / "cat.jpg"))


def test_a_folder_without_images_says_what_it_should_hold(tmp_path: Path):
    (tmp_path / "notes.md").write_text("no images here")
    with pytest.raises(DataError, match="folder of images per class"):
        of_folder(tmp_path)


def test_images_without_class_folders_or_metadata_are_refused_with_advice(tmp_path: Path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(seed=number), "JPEG"))
    with pytest.raises(DataError, match="each class is a folder"):
        of_folder(tmp_path)


def test_no_data_set_is_an_error_that_names_the_options():
    with pytest.raises(DataError, match="--dataset_name"):
        load_data(FinetuneConfig())


def test_a_misspelt_digits_gets_the_embedded_data_set():
    with pytest.raises(DataError, match="digits"):
        load_data(FinetuneConfig(dataset_name="digit"))


def test_several_labels_per_image_are_understood_and_stratified(tmp_path: Path):
    labels = [[0], [1], [0, 1], []] * 10
    data = of_folder(saved(tmp_path, train=table(labels, List(PETS))))
    assert data.multi_label
    assert data.train.labels.shape == (len(data.train), 2)
    assert all(min(data.facts.class_counts[name]) > 0 for name in data.splits)


def test_equal_images_stay_on_one_side_of_a_made_split(tmp_path: Path):
    twice = datasets.concatenate_datasets([table(HALF, PETS), table(HALF, PETS)])
    data = of_folder(saved(tmp_path, train=twice))
    assert data.facts.duplicates == {}
    assert all(len(split) % 2 == 0 for split in data.splits.values())


def test_images_of_test_that_train_has_too_are_counted(tmp_path: Path):
    saved(tmp_path, train=table(HALF, PETS), test=table([0, 1, 0], PETS, first_seed=38))
    data = of_folder(tmp_path)
    assert sum(data.facts.duplicates.values()) == 2
    assert any("flatters the score" in note for note in data.facts.notes)


def test_an_unlabelled_test_split_is_not_scored_and_not_replaced(tmp_path: Path):
    data = of_folder(saved(tmp_path, train=table(HALF, PETS), test=table([-1, -1], PETS, first_seed=90)))
    assert data.test is None
    assert any("test has no labels" in note for note in data.facts.notes)
    assert len(data.train) + len(data.validation) == 40


def test_a_strong_imbalance_and_absent_classes_are_noted(tmp_path: Path):
    data = of_folder(
        saved(tmp_path, train=table([0] * 60 + [1] * 3, ClassLabel(names=["cat", "dog", "eel"])))
    )
    assert any("times the images of the rarest" in note for note in data.facts.notes)
    assert any("no training image" in note and "eel" in note for note in data.facts.notes)


def test_a_single_image_of_a_class_stays_in_train():
    groups = np.array([0] * 30 + [1] + [2])
    for seed in range(20):
        sides = stratified_sides(groups, np.arange(32), [0.3, 0.3], seed=seed)
        assert sides[30] == sides[31] == 0


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_small_classes_add_up_to_the_asked_share(size: int):
    groups = np.repeat(np.arange(100), size)
    sides = stratified_sides(groups, np.arange(len(groups)), [0.2], seed=0)
    expected = 0 if size == 1 else min(0.2, 1 - 1 / size) * len(groups)
    assert (sides == 1).sum() == pytest.approx(expected, abs=2)


def test_too_few_images_for_a_split_are_refused_with_advice(tmp_path: Path):
    with pytest.raises(DataError, match="too few"):
        of_folder(saved(tmp_path, train=table([0, 1], PETS)))


def test_no_split_is_made_where_none_is_wanted(tmp_path: Path):
    data = of_folder(saved(tmp_path, train=table([0, 1], PETS)), validation_fraction=0.0, test_fraction=0.0)
    assert list(data.splits) == ["train"]


def test_the_fingerprint_changes_with_an_image_a_label_or_a_class_name(tmp_path: Path):
    source = table(HALF, PETS)
    changed = {
        "same": source,
        "image": datasets.concatenate_datasets([table([0], PETS, first_seed=99), source.skip(1)]),
        "label": table([1, *HALF[1:]], PETS),
        "name": source.cast_column("label", ClassLabel(names=["cat", "wolf"])),
    }
    fingerprints = {
        name: of_folder(saved(tmp_path / name, train=rows)).fingerprint for name, rows in changed.items()
    }
    assert len(set(fingerprints.values())) == 4
    assert of_folder(tmp_path / "same").fingerprint == fingerprints["same"]


def test_the_table_says_what_was_understood(tmp_path: Path):
    saved(tmp_path / "pets", train=table(HALF, PETS))
    text = of_folder(tmp_path / "pets").table()
    for said in ("pets", "'image'", "'label'", "cat, dog", "28 images", "40x30", "PNG RGB", "15%"):
        assert said in text


_ASK_THE_HUB = """
    import time
    from resnet_hub.errors import DataError
    from resnet_hub.finetuning.config.options import FinetuneConfig
    from resnet_hub.finetuning.data.load import load_data
    started = time.monotonic()
    try:
        load_data(FinetuneConfig(dataset_name="someone/flowers"))
    except DataError as error:
        print(f"{time.monotonic() - started:.1f} {error}")
"""


@pytest.mark.parametrize("answers", ["refuses", pytest.param("hangs", marks=pytest.mark.slow)])
def test_a_hub_out_of_reach_is_reported_within_fifteen_seconds(answers: str, tmp_path: Path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers == "hangs":
            server.listen()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_ASK_THE_HUB)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 15, done.stderr
    for named in (endpoint, "someone/flowers", "HF_ENDPOINT", str(tmp_path), "HF_HUB_OFFLINE=1"):
        assert named in message


@pytest.mark.parametrize("name", ["photos [2024] *", "a?b{x,y}", "data[0-9]"])
def test_folders_whose_names_look_like_patterns_are_read(photo_folder: Path, tmp_path: Path, name: str):
    folder = tmp_path / name / "and [another]"
    shutil.copytree(photo_folder, folder)
    data = load_data(FinetuneConfig(dataset_name=str(folder)))
    assert data.class_names == ("blue", "green", "red")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 61,
        "validation": 27,
        "test": 11,
    }
    assert load_data(FinetuneConfig(train_dir=folder / "train")).class_names == data.class_names
    shutil.rmtree(folder / "train")
    (folder / "validation").rename(folder / "train")
    (folder / "train" / "red").rename(folder / "train" / "r[e]d*")
    assert load_data(FinetuneConfig(dataset_name=str(folder))).class_names == ("blue", "green", "r[e]d*")


def test_tables_and_saved_sets_in_folders_named_like_patterns_are_read(tmp_path: Path):
    rows = table(HALF, PETS)
    for kind in ("parquet [1]", "saved *"):
        folder = tmp_path / "old [x]" / kind
        folder.mkdir(parents=True)
        if kind.startswith("parquet"):
            rows.to_parquet(folder / "train.parquet")
        else:
            datasets.DatasetDict(train=rows).save_to_disk(folder)
        assert len(of_folder(folder).train) == 28


def test_a_table_with_two_columns_of_one_name_is_refused_by_that_name(tmp_path: Path):
    images, labels = (column.combine_chunks() for column in table(HALF, PETS).data.table.columns)
    rows = pa.Table.from_arrays([images, labels, labels], names=["image", "label", "label"])
    pyarrow.parquet.write_table(rows, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"Multiple matches.*label"):
        of_folder(tmp_path)


def test_tiny_images_are_read_and_noted(tmp_path: Path):
    for number in range(20):
        size = (1, 1) if number < 3 else (40, 7) if number < 5 else (8, 8)
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(*size, seed=number)))
    data = load_data(FinetuneConfig(train_dir=tmp_path / "pets"))
    assert sum(map(len, data.splits.values())) == 20
    assert data.facts.size_range[0] == (1, 1)
    assert "5 images have a side of less than 8 pixels" in data.table()
