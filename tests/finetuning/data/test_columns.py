"""The image and the label column are found by type and by name, or refused with what there is."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.columns import Columns, find_columns
from resnet_hub.finetuning.data.labels import read_labels
from resnet_hub.finetuning.data.roles import Role

PETS = ClassLabel(names=["cat", "dog", "eel"])
CONFIG = FinetuneConfig(dataset_name="any")


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


@pytest.mark.parametrize("name", ["cls", "cls.txt", "CLS"])
def test_names_of_webdataset_are_usual(name: str):
    found = columns(
        **{"jpg": Image(), name: Value("int64"), "txt": Value("string"), "__key__": Value("string")}
    )
    assert found == Columns(image="jpg", label=name)


RECORD = {"label": Value("int64"), "width": Value("int64"), "caption": Value("string")}


def test_a_label_in_a_record_is_found_and_read():
    assert columns(jpg=Image(), json=RECORD).label == "json.label"
    assert columns(jpg=Image(), json=RECORD, cls=Value("int64")).label == "cls"
    config = FinetuneConfig(dataset_name="any", label_column_name="json.width")
    assert columns(config, jpg=Image(), json=RECORD).label == "json.width"
    rows = [{"label": n, "width": 5, "caption": "a"} for n in (7, 3, 7)]
    features = Features({"image": Image(), "json": RECORD})
    data = Dataset.from_dict({"image": [None] * 3, "json": rows}, features=features)
    labels = read_labels({"train": data}, "json.label", {"train": Role(rows=np.arange(3), how="")})
    assert labels.class_names == ("3", "7")
    assert labels.values["train"].tolist() == [1, 0, 1]


def test_a_label_in_a_record_cannot_be_streamed():
    config = FinetuneConfig(dataset_name="any", streaming=True)
    with pytest.raises(DataError, match=r"field json\.label .* leave out --streaming"):
        columns(config, jpg=Image(), json=RECORD)
