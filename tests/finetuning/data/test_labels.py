"""Labels of every kind become classes, or are refused with split, column, count and first row."""

import numpy as np
import pytest
from datasets import ClassLabel, Features, Image, List, Value

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.columns import Columns, find_columns
from resnet_hub.finetuning.data.labels import Labels, read_labels
from resnet_hub.finetuning.data.roles import Role
from tests.finetuning.image_files import table

CONFIG = FinetuneConfig(dataset_name="any")
PETS = ClassLabel(names=["cat", "dog", "eel"])


def read(feature: object, **splits: list) -> Labels:
    """What is understood of splits with these labels, each split in the role of its name."""
    tables = {name: table(labels, feature) for name, labels in splits.items()}
    starts = np.cumsum([0, *(len(labels) for labels in splits.values())])
    roles = {
        name: Role(rows=np.arange(len(labels)) + start, how=name)
        for (name, labels), start in zip(splits.items(), starts, strict=False)
    }
    return read_labels(tables, "label", roles)


def test_declared_classes_keep_their_order_and_their_gaps():
    labels = read(PETS, train=[2, 0, 2], validation=[1])
    assert labels.class_names == ("cat", "dog", "eel")
    assert labels.values["train"].tolist() == [2, 0, 2]
    assert labels.values["validation"].tolist() == [1]
    assert not labels.multi_label


@pytest.mark.parametrize(
    ("feature", "values", "names"),
    [
        (Value("string"), ["b", "a", "b"], ("a", "b")),
        (Value("large_string"), ["b", "a", "b"], ("a", "b")),
        (Value("int64"), [10, 2, 10], ("2", "10")),
        (Value("int8"), [5, 0, 5], ("0", "5")),
        (Value("bool"), [True, False, True], ("False", "True")),
        (Value("float32"), [1.0, 0.0, 1.0], ("0", "1")),
    ],
)
def test_values_become_sorted_classes_without_gaps(feature: Value, values: list, names: tuple):
    labels = read(feature, train=values)
    assert labels.class_names == names
    assert labels.values["train"].tolist() == [1, 0, 1]


def test_the_names_are_the_same_whatever_order_the_rows_are_in():
    assert read(Value("string"), train=["b", "a", "c"]).class_names == ("a", "b", "c")
    assert read(Value("string"), train=["c", "b", "a"]).class_names == ("a", "b", "c")


def test_classes_that_only_validation_has_are_classes():
    labels = read(Value("string"), train=["a", "c"], validation=["b"])
    assert labels.class_names == ("a", "b", "c")
    assert labels.values["train"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (List(PETS), [[0, 2], [1], []]),
        (List(Value("string")), [["cat", "eel"], ["dog"], []]),
    ],
)
def test_lists_of_classes_are_several_labels_per_image(feature: object, values: list):
    labels = read(feature, train=values)
    assert labels.multi_label
    assert labels.class_names == ("cat", "dog", "eel")
    assert labels.values["train"].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert labels.values["train"].dtype == np.float32


def test_lists_of_class_numbers_are_several_labels_per_image():
    labels = read(List(Value("int64")), train=[[7, 2], [2], [5]])
    assert labels.class_names == ("2", "5", "7")
    assert labels.values["train"].tolist() == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_lists_of_zeros_and_ones_say_for_each_class_whether_it_is_there():
    labels = read(List(Value("int64")), train=[[1, 0, 1], [0, 0, 0], [0, 1, 1]])
    assert labels.multi_label
    assert labels.values["train"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 1]]


def test_one_hot_lists_are_one_label_per_image():
    labels = read(List(Value("float32")), train=[[1, 0, 0], [0, 0, 1]], validation=[[0, 1, 0]])
    assert not labels.multi_label
    assert labels.class_names == ("0", "1", "2")
    assert labels.values["train"].tolist() == [0, 2]
    assert labels.values["validation"].tolist() == [1]


@pytest.mark.parametrize(
    ("feature", "missing"), [(PETS, -1), (PETS, None), (Value("int64"), -1), (Value("string"), None)]
)
def test_a_test_split_without_labels_is_left_unscored(feature: object, missing: object):
    values = ["a", "b"] if feature == Value("string") else [0, 1]
    labels = read(feature, train=values, test=[missing, missing])
    assert labels.unlabelled == ("test",)
    assert set(labels.values) == {"train"}


@pytest.mark.parametrize(("feature", "missing"), [(PETS, -1), (PETS, None), (Value("float64"), float("nan"))])
@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_single_missing_labels_are_refused_with_count_and_first_row(feature, missing, role: str):
    splits: dict[str, list] = {"train": [0, 1], "validation": [0, 1], "test": [0, 1]}
    splits[role] = [0, 1, missing, missing]
    with pytest.raises(DataError, match=rf"2 of 4 rows for {role} .* column label; .* row 2 of split {role}"):
        read(feature, **splits)


def test_a_validation_split_without_labels_is_refused():
    with pytest.raises(DataError, match="2 of 2 rows for validation"):
        read(PETS, train=[0, 1], validation=[-1, -1])


def test_fractions_are_refused_as_quantities():
    with pytest.raises(DataError, match=r"fractions such as 0\.5"):
        read(Value("float32"), train=[0.5, 1.0])


@pytest.mark.parametrize("feature", [PETS, Value("int64"), List(Value("int64"))])
def test_a_single_class_is_refused(feature: object):
    values = [[1], [1]] if isinstance(feature, List) else [1, 1]
    with pytest.raises(DataError, match="nothing can be learnt"):
        read(feature, train=values)


def test_splits_with_the_same_classes_in_another_order_are_matched_by_name():
    tables = {
        "train": table([0, 1, 2], ClassLabel(names=["cat", "dog", "eel"])),
        "validation": table([0, 1, 2], ClassLabel(names=["eel", "cat", "dog"])),
    }
    roles = {
        "train": Role(rows=np.arange(3), how=""),
        "validation": Role(rows=np.arange(3, 6), how=""),
    }
    assert read_labels(tables, "label", roles).values["validation"].tolist() == [2, 0, 1]


def test_splits_with_different_classes_are_refused_by_name():
    tables = {
        "train": table([0, 1], ClassLabel(names=["cat", "dog"])),
        "validation": table([0, 1], ClassLabel(names=["cat", "wolf"])),
    }
    roles = {"train": Role(rows=np.arange(2), how=""), "validation": Role(rows=np.arange(2, 4), how="")}
    with pytest.raises(DataError, match="dog, wolf"):
        read_labels(tables, "label", roles)


def columns(config: FinetuneConfig = CONFIG, **features: object) -> Columns:
    return find_columns(Features(features), config)


def test_columns_are_found_by_type_whatever_they_are_called():
    found = columns(picture=Image(), id=Value("string"), kind=PETS)
    assert found == Columns(image="picture", label="kind")


@pytest.mark.parametrize(
    "stored", [Value("binary"), Value("large_binary"), {"bytes": Value("binary"), "path": Value("string")}]
)
def test_encoded_bytes_are_images(stored: object):
    assert columns(img=stored, label=Value("int64")) == Columns(image="img", label="label")


def test_of_several_columns_the_usual_name_is_taken():
    found = columns(image=Image(), mask=Image(), label=PETS, breed=PETS, weight=Value("float32"))
    assert found == Columns(image="image", label="label")


def test_of_several_columns_without_a_usual_name_none_is_guessed():
    with pytest.raises(DataError, match=r"front, back.*--image_column_name"):
        columns(front=Image(), back=Image(), label=PETS)
    with pytest.raises(DataError, match=r"fine, coarse.*--label_column_name"):
        columns(image=Image(), fine=PETS, coarse=PETS)


def test_the_options_choose_columns():
    config = FinetuneConfig(dataset_name="any", image_column_name="back", label_column_name="coarse")
    found = columns(config, front=Image(), back=Image(), fine=PETS, coarse=PETS)
    assert found == Columns(image="back", label="coarse")


def test_a_misspelt_column_gets_the_nearest_name():
    config = FinetuneConfig(dataset_name="any", label_column_name="lable")
    with pytest.raises(DataError, match="'label'"):
        columns(config, image=Image(), label=PETS)


def test_missing_columns_are_listed_with_their_types():
    with pytest.raises(DataError, match=r"No column holds images.*url \(string\)"):
        columns(url=Value("string"), label=PETS)
    with pytest.raises(DataError, match=r"No column holds labels"):
        columns(image=Image(), embedding=List(List(Value("float32"))))


def test_addresses_are_not_images_even_when_asked_for():
    config = FinetuneConfig(dataset_name="any", image_column_name="url")
    with pytest.raises(DataError, match="not followed"):
        columns(config, url=Value("string"), label=PETS)


def test_a_column_that_cannot_be_classes_is_refused():
    config = FinetuneConfig(dataset_name="any", label_column_name="box")
    with pytest.raises(DataError, match="cannot be classes"):
        columns(config, image=Image(), box={"x": Value("int64"), "y": Value("int64")})
