"""Data sets of the Hub as streams: files are read in parts, and a broken line is no lost run."""

import json

import pytest

pytest_plugins = ["tests.hub_server.fixtures"]

_PUBLISH = """
from pathlib import Path
import datasets
import numpy as np
from huggingface_hub import HfApi
from PIL import Image

def noise(number):
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8))

features = datasets.Features({"image": datasets.Image(), "other": datasets.Image(),
                              "label": datasets.ClassLabel(names=["cat", "dog"])})
for split, start, size in (("train", 0, 120), ("validation", 500, 10)):
    rows = {"image": [noise(start + n) for n in range(size)], "label": [n % 2 for n in range(size)],
            "other": [noise(start + n) for n in range(size)]}
    datasets.Dataset.from_dict(rows, features=features).push_to_hub("alice/table", split=split, num_shards=2)
for split, size in (("train", 30), ("validation", 4)):
    for number in range(size):
        path = Path("photos") / split / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(number).save(path)
HfApi().create_repo("alice/photos", repo_type="dataset")
HfApi().upload_folder(folder_path="photos", repo_id="alice/photos", repo_type="dataset")
"""

_STREAM = """
import json
import numpy as np
from resnet_hub.errors import DataError, RunError
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.finetuning.data import load_streamed
from resnet_hub.finetuning.data.load import load_data
from resnet_hub.finetuning.batches.sampler import EpochPlan, Share
from resnet_hub.finetuning.batches.stream_reader import stream_batches

load_streamed.SAMPLE_IMAGES = 8

def load(name):
    return load_data(FinetuneConfig(dataset_name=name, streaming=True, test_fraction=0,
                                    image_column_name="image"))

def rows(data):
    stream = data.train.ordered(parts=4, buffer=32)
    plan = EpochPlan(num_images=len(stream), global_batch_size=10, seed=0)
    return [batch for batch in stream_batches(stream, plan, Share(0, 1, 1), 0, 0)]
"""

_READ = """
said = {}
for name in ("alice/table", "alice/photos"):
    data = load(name)
    batches = rows(data)
    numbers = np.concatenate([batch.numbers for batch in batches])
    assert all(batch.data and not any(batch.problems) for batch in batches)
    first = len(data.train) and min(numbers)
    said[name] = [data.dataset_revision, len(data.train), len(data.validation), list(data.class_names),
                  sorted(int(number - first) for number in numbers),
                  sorted({bytes(d[:4]).hex() for batch in batches for d in batch.data})]
print(json.dumps(said))
"""

_BREAK = """
data = load("alice/table")
from huggingface_hub import constants
import urllib.request
try:
    urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT + "/api/break", method="POST"))
except OSError:
    pass
try:
    rows(data)
except RunError as error:
    print(error)
"""


@pytest.mark.slow
def test_data_sets_of_the_hub_stream_at_their_commit(hub, run_python):
    done = run_python(_PUBLISH)
    assert done.returncode == 0, done.stderr
    done = run_python(_STREAM + _READ)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for name, (train, validation) in {"alice/table": (120, 10), "alice/photos": (30, 4)}.items():
        revision, *sizes, classes, numbers, heads = said[name]
        assert revision == hub.storage.repos["datasets", name].resolve("main")
        assert sizes == [train, validation]
        assert classes == ["cat", "dog"]
        assert numbers == list(range(train))
        assert heads == ["89504e47"]  # PNG
    again = run_python(_STREAM + _READ)
    assert json.loads(again.stdout.splitlines()[-1]) == said


@pytest.mark.slow
def test_a_line_that_breaks_for_good_stops_the_run_and_says_how_to_go_on(hub, run_python):
    done = run_python(_PUBLISH)
    assert done.returncode == 0, done.stderr
    hub.fail(r"GET /lfs/", drop=True, times=2)
    hub.fail(r"GET /datasets/alice/table/resolve/", status=503)
    assert run_python(_STREAM + _READ).returncode == 0, "a moment's trouble is waited for"

    def break_down() -> None:
        hub.fail(r"GET /lfs/", drop=True, times=1000)

    hub.fail(r"POST /api/break", meanwhile=break_down)
    done = run_python(_STREAM + _BREAK)
    assert done.returncode == 0, done.stderr
    assert "cannot be read any further" in done.stdout
    assert "the same command resumes from the last checkpoint" in done.stdout
