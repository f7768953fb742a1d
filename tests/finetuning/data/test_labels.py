"""Labels of every kind become classes, or are refused with split, column, count and first row."""

import numpy as np
import pytest
from datasets import ClassLabel, LargeList, List, Value

from resnet_hub.errors import DataError
from resnet_hub.finetuning.data.labels import Labels, read_labels
from resnet_hub.finetuning.data.roles import Role
from tests.finetuning.image_files import table

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


ONE_HOT = [[1, 0], [0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("feature", "names"),
    [
        (List(Value("int64")), ("0", "1")),
        (List(Value("uint8"), length=2), ("0", "1")),
        (List(Value("bool")), ("0", "1")),
        (List(Value("float32"), length=2), ("0", "1")),
        (LargeList(Value("int8")), ("0", "1")),
        (List(ClassLabel(names=["cat", "dog"])), ("cat", "dog")),
        (List(ClassLabel(names=["no", "yes"]), length=3), ("0", "1", "2")),
    ],
    ids=str,
)
def test_indicator_vectors_with_exactly_one_1_are_single_label_whatever_their_type(feature, names: tuple):
    vectors = [[*vector, *[0] * (len(names) - 2)] for vector in ONE_HOT]
    labels = read(feature, train=vectors, validation=vectors[1:2])
    assert not labels.multi_label
    assert labels.form == "indicator vectors"
    assert labels.class_names == names
    assert labels.values["train"].tolist() == [0, 1, 0, 1]
    assert labels.values["validation"].tolist() == [1]


@pytest.mark.parametrize("more", [[1, 1], [0, 0]])
@pytest.mark.parametrize("kind", ["int64", "bool", "float64"])
def test_one_row_with_another_number_of_ones_makes_vectors_multi_label(kind: str, more: list[int]):
    labels = read(List(Value(kind)), train=ONE_HOT, validation=[more])
    assert labels.multi_label
    assert labels.form == "indicator vectors"
    assert labels.values["train"].tolist() == ONE_HOT
    assert labels.values["validation"].tolist() == [more]


def test_rows_that_are_not_used_tell_vectors_from_sets_too():
    feature = List(Value("int64"))
    tables = {"train": table([[0, 1], [1], [0]], feature), "test": table([[0, 1]] * 2, feature)}
    labels = read_labels(tables, "label", {"validation": Role(rows=np.arange(3, 5), how="")})
    assert labels.form == "lists of classes"
    assert labels.values["validation"].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("feature", "values", "names"),
    [
        (List(Value("int64")), [[0], [1], [1]], ("0", "1")),
        (List(Value("bool")), [[False], [True], [True]], ("False", "True")),
        (List(Value("string"), length=1), [["cat"], ["dog"], ["dog"]], ("cat", "dog")),
        (List(PETS), [[0], [2], [2]], ("cat", "dog", "eel")),
    ],
    ids=str,
)
def test_lists_of_one_class_each_are_single_label(feature, values: list, names: tuple):
    labels = read(feature, train=values)
    assert not labels.multi_label
    assert labels.form == "lists of one class"
    assert labels.class_names == names
    assert np.array(names)[labels.values["train"]].tolist() == [names[0], names[-1], names[-1]]


def test_sets_of_three_declared_classes_are_not_vectors_of_two():
    with pytest.raises(DataError, match="same label 'cat', 'dog'"):
        read(List(PETS), train=[[0, 1], [1, 0]])


def test_vectors_of_zeros_alone_are_a_test_split_without_labels():
    labels = read(List(Value("int64")), train=ONE_HOT, test=[[0, 0], [0, 0]])
    assert labels.unlabelled == ("test",)
    assert not labels.multi_label


@pytest.mark.parametrize(
    ("feature", "values"),
    [
        (Value("int64"), [1, 0, 1]),
        (PETS, [1, 0, 1]),
        (List(Value("int64")), [[0, 1, 0], [1, 0, 0], [0, 1, 0]]),
        (List(PETS), [[1], [0], [1]]),
    ],
    ids=str,
)
def test_the_model_decides_whether_labels_are_read_as_multi_label(feature, values: list):
    tables = {"train": table(values, feature)}
    roles = {"validation": Role(rows=np.arange(3), how="")}
    multi = read_labels(tables, "label", roles, multi_label=True)
    assert multi.multi_label
    assert multi.values["validation"][:, :2].tolist() == [[0, 1], [1, 0], [0, 1]]
    single = read_labels(tables, "label", roles, multi_label=False)
    assert not single.multi_label
    assert single.values["validation"].tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("feature", "good", "missing"),
    [
        (List(Value("int64")), [[1], [0, 1]], [1, -1]),
        (List(Value("int64")), [[1, 0, 0], [0, 1, 1]], [-1, -1, -1]),
        (List(Value("int64")), [[1, 0], [0, 1]], [0, None]),
        (List(Value("float64")), [[1, 0], [0, 1]], [0, float("nan")]),
        (List(PETS), [[1], [0, 1]], [0, -1]),
        (List(PETS), [[1], [0, 1]], [None]),
        (List(Value("string")), [["cat"], ["cat", "dog"]], ["dog", None]),
        (List(Value("string")), [["cat"], ["dog"]], [""]),
        (List(Value("bool")), [[True, False], [False, True]], [None, True]),
        (Value("int64"), [0, 1], -1),
        (Value("string"), ["cat", "dog"], " "),
    ],
    ids=str,
)
@pytest.mark.parametrize("role", ["train", "validation"])
def test_missing_items_are_the_message_for_rows_without_labels(feature, good: list, missing, role: str):
    splits = {"train": good * 2, "validation": good * 2}
    splits[role] = [*good, missing, missing]
    with pytest.raises(DataError, match=rf"2 of 4 rows for {role} .* row 2 of split {role}, which holds"):
        read(feature, **splits)


def test_the_classes_minus_one_and_one_are_classes():
    assert read(Value("int64"), train=[-1, 1, 1]).class_names == ("-1", "1")


@pytest.mark.parametrize(
    "names", [["001", "002"], ["1", "01"], ["NA", "None", "nan"], ["1.0", "1"], ["True", "1"]]
)
def test_text_stays_text(names: list[str]):
    labels = read(Value("string"), train=names)
    assert labels.class_names == tuple(sorted(names))


def test_a_null_among_text_says_which_words_may_have_been_lost():
    with pytest.raises(DataError, match="a class called NA, None or nan that was not read as text"):
        read(Value("string"), train=["cat", None, "dog"])


@pytest.mark.parametrize("kind", ["int64", "bool"])
def test_text_in_one_split_and_numbers_in_another_are_refused(kind: str):
    tables = {"train": table(["0", "1"], Value("string")), "test": table([0, 1], Value(kind))}
    roles = {"train": Role(rows=np.arange(2), how=""), "test": Role(rows=np.arange(2, 4), how="")}
    with pytest.raises(DataError, match=r"text in train, .* in test.*in one type"):
        read_labels(tables, "label", roles)


def test_text_that_is_no_declared_class_is_refused_by_name():
    tables = {"train": table([0, 1], PETS), "test": table(["cat", "dgo"], Value("string"))}
    roles = {"train": Role(rows=np.arange(2), how=""), "test": Role(rows=np.arange(2, 4), how="")}
    with pytest.raises(DataError, match="'dgo' is none of the 3 declared classes; did you mean 'dog'"):
        read_labels(tables, "label", roles)


@pytest.mark.parametrize("value", [0.5, float("inf"), -0.25])
def test_shares_of_classes_are_refused(value: float):
    with pytest.raises(DataError, match="fractions such as"):
        read(List(Value("float32")), train=[[value, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("same", [[[0, 1]] * 3, [[]] * 3])
def test_training_images_that_all_have_the_same_set_are_refused(same: list):
    with pytest.raises(DataError, match="nothing can be learnt"):
        read(List(PETS), train=same)
