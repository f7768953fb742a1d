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

_PUBLISH_TABLES = """
import json
from pathlib import Path
from huggingface_hub import HfApi
from PIL import Image
from resnet_hub.errors import DataError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data

CARD = "---\\nconfigs:\\n- config_name: default\\n  data_files:\\n  - split: train\\n    path: '**'\\n---\\n"
SETS = {
    "labels": ("images", "labels.csv", "id,breed", "{},{}", ("001", "002"), None),
    "metadata": ("a/train", "a/train/metadata.csv", "file_name,label", "{}.jpg,{}", ("NA", "None"), None),
    "lines": (".", "train.jsonl", None, '{{"image": "{}.jpg", "label": "{}"}}', ("1", "01"), None),
    "card": (".", "metadata.csv", "file_name,label", "{}.jpg,{}", ("001", "002"), CARD),
}
told = {}
for name, (folder, table, header, row, labels, card) in SETS.items():
    root = Path(name)
    (root / folder).mkdir(parents=True)
    for n in range(20):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(root / folder / f"{n}.jpg")
    lines = [row.format(n, labels[n % 2]) for n in range(20)]
    (root / table).write_text("\\n".join([header] * bool(header) + lines))
    if card:
        (root / "README.md").write_text(card)
    HfApi().create_repo(f"alice/{name}", repo_type="dataset")
    commit = HfApi().upload_folder(folder_path=root, repo_id=f"alice/{name}", repo_type="dataset").oid
    data = load_data(FinetuneConfig(dataset_name=f"alice/{name}"))
    assert data.dataset == f"alice/{name}" and data.dataset_revision == commit
    told[name] = [data.class_names, data.fingerprint, data.facts.notes]
print(json.dumps(told))
"""

_LOAD_TABLES_AGAIN = """
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data.load import load_data
data = load_data(FinetuneConfig(dataset_name="alice/labels"))
print(data.fingerprint)
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


@pytest.mark.slow
def test_a_text_in_a_table_of_the_hub_stays_a_text_or_the_guess_is_noted(hub, run_python):
    done = run_python(_PUBLISH_TABLES)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["labels"][0] == ["001", "002"]
    assert told["metadata"][0] == ["NA", "None"]
    assert told["lines"][0] == ["01", "1"]
    assert told["card"][0] == ["1", "2"]
    assert any("001 is read as 1, and NA and None as missing" in note for note in told["card"][2])
    hub.stop()
    again = run_python(_LOAD_TABLES_AGAIN, HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines() == [told["labels"][1]]
