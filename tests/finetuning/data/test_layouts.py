"""Folders as people publish them: which are splits, which are classes, which are neither."""

import shutil
from pathlib import Path

import pytest

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import ImageData, load_data, load_split, open_images
from tests.finetuning.image_files import class_folders, encoded, picture


def of_folder(folder: Path, **options: object) -> ImageData:
    return load_data(FinetuneConfig(dataset_name=str(folder), **options))  # pyright: ignore[reportArgumentType]


def flat(folder: Path, count: int, *, first_seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(encoded(picture(seed=first_seed + number), "JPEG"))
    return folder


def split_folders(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        class_folders(root / name, {"cat": 4, "dog": 5}, first_seed=50 * number)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("training_set", "test_set"),
        ("train_images", "val2017"),
        ("seg_train", "seg_test"),
        ("Training", "Testing"),
        ("train", "valid-2"),
        ("my.train", "dev set", "my.test"),
        ("images/train", "images/val"),
        ("train/images", "test/images"),
        ("01_train", "02_validation", "03_evaluation"),
    ],
)
def test_folders_that_are_named_like_splits_and_share_classes_are_splits(tmp_path: Path, names):
    data = of_folder(split_folders(tmp_path / "pets", *names), test_fraction=0, validation_fraction=0)
    assert data.class_names == ("cat", "dog")
    assert sorted(len(split) for split in data.splits.values()) == [9] * len(names)


@pytest.mark.parametrize(
    "names",
    [
        ("trainset", "testset"),
        ("TrainImages", "TestImages"),
        ("train_small", "train_large"),
        ("train_val", "test"),
    ],
)
@pytest.mark.parametrize("option", ["dataset_name", "train_dir"])
def test_splits_by_proof_never_become_classes(tmp_path: Path, names, option: str):
    root = split_folders(tmp_path / "pets", *names)
    with pytest.raises(DataError, match=f"--train_dir {root}/") as caught:
        load_data(FinetuneConfig(**{option: str(root)}))
    assert names[0] in str(caught.value)


def test_a_split_beside_a_folder_of_another_name_is_no_class_unless_one_insists(tmp_path: Path):
    root = split_folders(tmp_path / "pets", "mytrain", "holdout")
    with pytest.raises(DataError, match=f"If each is a class: --train_dir {root}"):
        of_folder(root)
    assert load_data(FinetuneConfig(train_dir=root)).class_names == ("holdout", "mytrain")


@pytest.mark.parametrize(
    "names",
    [("bus", "car", "train"), ("fail", "test"), ("dev", "design", "ops"), ("valid", "expired", "void")],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_class_that_is_called_like_a_split_is_refused_or_a_class(tmp_path: Path, names, nested: bool):
    root = tmp_path / "things" / "inner" if nested else tmp_path / "things"
    class_folders(root, dict.fromkeys(names, 8))
    with pytest.raises(DataError, match=f"splits or classes. If each is a class: --train_dir {root}"):
        of_folder(tmp_path / "things")
    data = load_data(FinetuneConfig(train_dir=root))
    assert data.class_names == tuple(sorted(names))


def test_a_class_called_train_with_folders_in_it_takes_no_other_class_away(tmp_path: Path):
    class_folders(tmp_path / "things", {"bus": 8, "car": 8})
    class_folders(tmp_path / "things" / "train", {"steam": 4, "electric": 4}, first_seed=40)
    with pytest.raises(DataError, match="bus, car, train, of which train"):
        of_folder(tmp_path / "things")
    assert load_data(FinetuneConfig(train_dir=tmp_path / "things")).class_names == ("bus", "car", "train")


def test_class_names_with_a_word_of_a_split_in_them_stay_classes_with_a_note(tmp_path: Path):
    data = of_folder(class_folders(tmp_path / "x", {"bus stop": 8, "train station": 8, "harbor": 8}))
    assert data.class_names == ("bus stop", "harbor", "train station")
    assert any("train station is read as a class" in note for note in data.facts.notes)


def test_flat_split_folders_are_not_classes(tmp_path: Path):
    flat(tmp_path / "x" / "training_set", 4)
    flat(tmp_path / "x" / "test_set", 4, first_seed=50)
    with pytest.raises(DataError, match="could be splits or classes"):
        of_folder(tmp_path / "x")


def test_a_test_split_without_class_folders_has_no_labels(tmp_path: Path):
    root = split_folders(tmp_path / "pets", "train", "val")
    flat(root / "test", 3, first_seed=200)
    data = of_folder(root)
    assert data.test is None
    assert len(data.train) == len(data.validation) == 9
    assert any("test has no labels" in note for note in data.facts.notes)


def test_folders_around_the_splits_are_opened_and_others_left_out_with_a_note(tmp_path: Path):
    """The layout of the Intel scenes: seg_train/seg_train/CLASS, and seg_pred without classes."""
    root = tmp_path / "scenes" / "archive"
    split_folders(root, "seg_train/seg_train", "seg_test/seg_test")
    flat(root / "seg_pred" / "seg_pred", 3, first_seed=200)
    data = of_folder(tmp_path / "scenes")
    assert data.class_names == ("cat", "dog")
    assert len(data.test) == 9
    assert any("seg_pred" in note for note in data.facts.notes)


def test_a_stream_of_folders_tells_how_they_were_read(tmp_path: Path):
    data = of_folder(
        split_folders(tmp_path / "pets", "training_set", "test_set"), streaming=True, validation_fraction=0
    )
    assert len(data.train) == len(data.test) == 9
    assert any("training_set is read as train" in note for note in data.facts.notes)


def test_folders_of_the_same_names_in_every_class_are_noted(tmp_path: Path):
    for name, first_seed in (("cat", 0), ("dog", 20)):
        class_folders(tmp_path / "pets" / name, {"2021": 4, "2022": 6}, first_seed=first_seed)
    data = of_folder(tmp_path / "pets")
    assert any("Every class folder has the folders 2021, 2022" in note for note in data.facts.notes)


def test_a_folder_with_a_test_split_only_can_be_measured_on(tmp_path: Path):
    loaded = load_split(FinetuneConfig(dataset_name=str(split_folders(tmp_path / "pets", "test_set"))), None)
    assert loaded.labels.class_names == ("cat", "dog")
    with pytest.raises(DataError, match="Use a --train_split"):
        of_folder(tmp_path / "pets")


def test_images_without_labels_are_found_for_prediction(tmp_path: Path):
    for number, name in enumerate(("a", "b/training_set", "b/test_set")):
        flat(tmp_path / name, 3, first_seed=50 * number)
    assert len(open_images(FinetuneConfig(dataset_name=str(tmp_path / "a")), None)) == 3
    assert len(open_images(FinetuneConfig(dataset_name=str(tmp_path / "b")), None)) == 6


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
@pytest.mark.parametrize("junk", ["__MACOSX", "@eaDir", ".ipynb_checkpoints", "#recycle", "cat/@eaDir"])
def test_junk_folders_are_left_out_and_listed(tmp_path: Path, junk: str, option: str):
    pets = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    flat(pets / junk, 3, first_seed=90)
    data = load_data(FinetuneConfig(**{option: str(pets)}))
    assert data.class_names == ("cat", "dog")
    assert sum(len(split) for split in data.splits.values()) == 16
    assert junk.startswith(".") or any(junk in note for note in data.facts.notes)


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
@pytest.mark.parametrize("name", ["pets.zip", "README.md", "Thumbs.db", "pets.tar", "names.csv"])
def test_files_beside_class_folders_are_not_read_and_listed(tmp_path: Path, name: str, option: str):
    pets = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    (pets / name).write_text("id,name\n0,cat\n")
    data = load_data(FinetuneConfig(**{option: str(pets)}))
    assert data.class_names == ("cat", "dog")
    assert any(name in note for note in data.facts.notes)


@pytest.mark.parametrize("option", ["train_dir", "dataset_name"])
@pytest.mark.parametrize(
    ("link", "target"),
    [("loop", "."), ("loop", ".."), ("loop", "loop"), ("cat/loop", "."), ("cat/x.jpg", "x.jpg"),
     ("cat/x.jpg", "missing.jpg"), ("cat/up", "../.."), ("eel", "missing")],
)  # fmt: skip
def test_a_link_in_a_circle_or_to_nothing_is_left_out_and_listed(tmp_path: Path, link, target, option):
    pets = class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    (pets / link).symlink_to(target)
    data = load_data(FinetuneConfig(**{option: str(pets)}))
    assert data.class_names == ("cat", "dog")
    assert sum(len(split) for split in data.splits.values()) == 16
    assert any(link in note for note in data.facts.notes)


def test_what_is_left_out_changes_neither_order_nor_fingerprint_of_class_folders(tmp_path: Path):
    """A run compares both when it resumes."""
    class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})
    before = of_folder(tmp_path / "pets")
    (tmp_path / "pets" / "left-over.zip").write_bytes(b"")
    shutil.copytree(tmp_path / "pets" / "cat", tmp_path / "pets" / "__MACOSX")
    assert of_folder(tmp_path / "pets").fingerprint == before.fingerprint
    files = [before.train.images.file_of(row) for row in range(16)]
    assert files == sorted(str(path) for path in (tmp_path / "pets").glob("[cd]*/*.jpg"))
