"""Data sets of the Hub: pinned to a commit, read again without a network, and refused with help."""

import json

import pytest

pytest_plugins = ["tests.hub_server.fixtures"]

_PUBLISH_AND_LOAD = """
import json
from pathlib import Path
import datasets
from huggingface_hub import HfApi
from PIL import Image
from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data

def shade(number):
    return Image.new("RGB", (8, 8), (number, 0, 0))

def load(name, **options):
    return load_data(FinetuneConfig(dataset_name=name, **options))

features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
for split, start, size in (("train", 0, 40), ("test", 100, 6)):
    rows = {"image": [shade(start + n) for n in range(size)], "label": [n % 2 for n in range(size)]}
    datasets.Dataset.from_dict(rows, features=features).push_to_hub("alice/table", split=split)

data = load("alice/table")
assert data.dataset_revision == HfApi().dataset_info("alice/table").sha
assert data.class_names == ("cat", "dog")
assert data.train.image(0).size == (8, 8)
assert not data.bad_images
for split, size in (("train", 20), ("test", 4)):
    for number in range(size):
        path = Path("photos") / split / ("cat", "dog")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        shade(number).save(path)
HfApi().create_repo("alice/photos", repo_type="dataset")
HfApi().upload_folder(folder_path="photos", repo_id="alice/photos", repo_type="dataset")
photos = load("alice/photos")
assert photos.dataset_revision == HfApi().dataset_info("alice/photos").sha
assert photos.class_names == ("cat", "dog")
assert photos.train.image(0).size == (8, 8)
assert not photos.bad_images

said = {"alice/photos": {split: len(rows) for split, rows in photos.splits.items()}}
said |= {"alice/table": [data.fingerprint, {split: len(rows) for split, rows in data.splits.items()}]}
for name, options in (
    ("alice/tabel", {}),
    ("alice/table", {"dataset_revision": "v9"}),
    ("alice/table", {"dataset_title": "Pets"}),
    ("not an id", {}),
):
    try:
        load(name, **options)
    except DataError as error:
        said[f"{name} {options}"] = str(error)
print(json.dumps(said))
"""

_LOAD_FROM_CACHE = """
from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data
print(load_data(FinetuneConfig(dataset_name="alice/table")).fingerprint)
try:
    load_data(FinetuneConfig(dataset_name="alice/other"))
except DataError as error:
    print(str(error))
"""


@pytest.mark.slow
def test_data_sets_of_the_hub_are_pinned_cached_and_refused_with_help(hub, run_python):
    done = run_python(_PUBLISH_AND_LOAD)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["alice/photos"] == {"train": 18, "validation": 2, "test": 4}  # class folders of JPEGs
    assert said["alice/table"][1] == {"train": 34, "validation": 6, "test": 6}
    assert "no data set 'alice/tabel'" in said["alice/tabel {}"]
    assert "no revision 'v9'" in said["alice/table {'dataset_revision': 'v9'}"]
    assert "is one of the Hub" in said["alice/table {'dataset_title': 'Pets'}"]
    assert "no data set 'not an id'" in said["not an id {}"]
    hub.stop()
    again = run_python(_LOAD_FROM_CACHE, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    fingerprint, refused = again.stdout.splitlines()
    assert fingerprint == said["alice/table"][0]
    assert "alice/other is not in the cache" in refused
