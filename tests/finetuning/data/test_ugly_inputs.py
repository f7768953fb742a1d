"""Damaged and hostile rows: left out and listed up to a limit, never opened, never a surprise later."""

from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import ImageData, load_data
from resnet_hub.images.decoding import BadImageError
from tests.finetuning.image_files import class_folders, encoded, picture

PETS = ClassLabel(names=["cat", "dog"])
GOOD = [encoded(picture(seed=seed), "JPEG") for seed in range(100)]


def saved(folder: Path, images: list, **options: object) -> ImageData:
    """Load a data set whose rows hold these `{bytes, path}` records, labels alternating."""
    storage = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    rows = datasets.Dataset.from_dict(
        {"image": images, "label": [number % 2 for number in range(len(images))]},
        features=datasets.Features({"image": storage, "label": PETS}),
    )
    rows.save_to_disk(folder)
    return load_data(FinetuneConfig(dataset_name=str(folder), **options))  # pyright: ignore[reportArgumentType]


def rows_with(bad: dict[int, object]) -> list:
    """A hundred good images, but for those at the given rows."""
    rows: list = [{"bytes": data, "path": None} for data in GOOD]
    for row, value in bad.items():
        rows[row] = {"bytes": value, "path": None} if isinstance(value, bytes) else value
    return rows


BAD = {
    "truncated": (GOOD[0][:200], "damaged"),
    "zero bytes": (b"", "zero bytes"),
    "a web page": (b"<html>not found</html>", "HTML"),
    "nothing": (None, "None"),
    "an empty record": ({"bytes": None, "path": None}, "None"),
    "an address": ({"bytes": None, "path": "https://example.com/cat.jpg"}, "names another place"),
    "a file address": ({"bytes": None, "path": "file:///etc/hostname"}, "names another place"),
    "an archive member": (
        {"bytes": None, "path": "zip://cat.jpg::https://example.com/x.zip"},
        "names another place",
    ),
    "a thin strip": (encoded(picture(1, 300)), "too thin"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_left_out_and_listed_with_its_row(tmp_path: Path, name: str):
    value, reason = BAD[name]
    data = saved(tmp_path, rows_with({17: value}))
    (bad,) = data.bad_images
    assert (bad.split, bad.row, bad.used_for) == ("all", 17, "train")
    assert reason in bad.problem
    assert sum(len(split) for split in data.splits.values()) == 99
    assert all(17 not in split.rows for split in data.splits.values())
    assert "1 unreadable" in data.table()


def test_a_row_that_names_a_file_elsewhere_does_not_get_it(tmp_path: Path):
    secret = tmp_path / "elsewhere" / "secret.png"
    secret.parent.mkdir()
    secret.write_bytes(encoded(picture()))
    data = saved(tmp_path / "data", rows_with({3: {"bytes": None, "path": str(secret)}}))
    assert "names another place" in data.bad_images[0].problem


def test_a_row_that_climbs_out_of_the_folder_does_not_get_the_file(tmp_path: Path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture()))
    climbing = f"{tmp_path}/data/../secret.png"
    data = saved(tmp_path / "data", rows_with({3: {"bytes": None, "path": climbing}}))
    assert "names another place" in data.bad_images[0].problem


def test_linked_images_and_linked_class_folders_are_read(tmp_path: Path):
    elsewhere = class_folders(tmp_path / "elsewhere", {"cat": 10, "dog": 10})
    pets = tmp_path / "pets"
    (pets / "cat").mkdir(parents=True)
    for image in (elsewhere / "cat").iterdir():
        (pets / "cat" / image.name).symlink_to(image)
    (pets / "dog").symlink_to(elsewhere / "dog")
    data = load_data(FinetuneConfig(train_dir=pets))
    assert not data.bad_images
    assert sum(len(split) for split in data.splits.values()) == 20


def test_too_many_bad_images_stop_the_run_with_the_list(tmp_path: Path):
    with pytest.raises(DataError) as caught:
        saved(tmp_path, rows_with({5: b"", 60: b"<html>"}))
    message = str(caught.value)
    for said in ("2 of 100 images (2.0%)", "--max_bad_images allows 1.0%", "row 5: is empty", "row 60:"):
        assert said in message


def test_a_larger_limit_lets_them_pass(tmp_path: Path):
    data = saved(tmp_path, rows_with({5: b"", 60: b"<html>"}), max_bad_images=0.02)
    assert [bad.row for bad in data.bad_images] == [5, 60]


def test_a_split_without_a_usable_image_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="No image for validation"):
        saved(tmp_path, rows_with({99: b""}), validation_split="all[99:]", train_split="all[:99]")


def test_bad_images_change_neither_rows_nor_labels_of_the_others(tmp_path: Path):
    data = saved(tmp_path, rows_with({17: b""}))
    for split in data.splits.values():
        assert np.array_equal(split.labels, split.rows % 2)


def test_class_names_of_any_alphabet_are_kept_as_they_are(tmp_path: Path):
    names = ["Ærøskøbing", "猫", 'it\'s "--- quoted"', "😀"]
    folder = class_folders(tmp_path / "any", dict.fromkeys(names, 8))
    data = load_data(FinetuneConfig(train_dir=folder))
    assert data.class_names == tuple(sorted(names))
    assert data.table()


def test_images_of_all_sizes_and_modes_stand_beside_each_other(tmp_path: Path):
    modes = ["RGB", "L", "CMYK", "RGBA", "P", "1", "LA", "I;16"]
    images = [
        encoded(
            picture(20 + 10 * number, 30, seed=number).convert("L" if mode == "I;16" else mode).convert(mode),
            "TIFF",
        )
        for number, mode in enumerate(modes)
    ]
    data = saved(tmp_path, [{"bytes": image, "path": None} for image in images] * 4)
    assert data.facts.size_range[0] == (20, 30)
    assert data.facts.size_range[2] == (90, 30)
    assert any("scaled to 8" in note for note in data.facts.notes)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_file_whose_pixels_are_cut_after_the_look_is_named_with_what_to_do(tmp_path: Path, format: str):
    data = load_data(FinetuneConfig(train_dir=class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})))
    whole = encoded(picture(300, 200), format)
    for file in (tmp_path / "pets").glob("*/*.jpg"):
        file.write_bytes(whole[: len(whole) * 3 // 4])
    for look in ("pixels", "decode"):
        (image,) = data.train.encoded(np.array([0]))
        with pytest.raises(BadImageError, match=r"pets/\w+/\d.jpg is damaged: .*Restore it"):
            getattr(image, look)()


@pytest.mark.parametrize("name", ["0.jpg", "3.jpg"])
def test_a_file_that_vanishes_after_the_look_is_named_with_what_to_do(tmp_path: Path, name: str):
    data = load_data(FinetuneConfig(train_dir=class_folders(tmp_path / "pets", {"cat": 8, "dog": 8})))
    for folder in ("cat", "dog"):
        (tmp_path / "pets" / folder / name).unlink()
    images = (split.encoded(np.arange(len(split))) for split in data.splits.values())
    with pytest.raises(BadImageError, match=rf"pets/\w+/{name} cannot be read: No such file.*Restore it"):
        list(chain.from_iterable(images))
