"""The published repository in the hands of the real clients, each in a process that never imports us."""

import json
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from resnet_hub.hub import push_folder, save_folder
from resnet_hub.prediction.classify import predict_probabilities

pytest_plugins = ["tests.hub_server.fixtures"]

REPO = "alice/pets"
NAMES = ["cat", "dog", "pug"]

PUBLISHED = """
import json, sys
import timm, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

image = Image.open("image.png").convert("RGB")
model = timm.create_model("hf-hub:alice/pets@v1", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model, use_test_size=True))
with torch.inference_mode():
    by_timm = model(prepare(image)[None]).softmax(-1)[0].tolist()
processor = AutoImageProcessor.from_pretrained("alice/pets", revision="v1")
model = AutoModelForImageClassification.from_pretrained("alice/pets", revision="v1").eval()
with torch.inference_mode():
    by_auto = model(**processor(image, return_tensors="pt")).logits.softmax(-1)[0].tolist()
classify = pipeline("image-classification", model="alice/pets", revision="v1")
by_pipeline = {row["label"]: row["score"] for row in classify("image.png")}
assert "resnet_hub" not in sys.modules
print(json.dumps([by_timm, by_auto, [by_pipeline[name] for name in ("cat", "dog", "pug")]]))
"""

DATASETS = """
import datasets
from PIL import Image

features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
rows = {"image": [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(6)], "label": [0, 1] * 3}
datasets.Dataset.from_dict(rows, features=features).push_to_hub("alice/animals")
again = datasets.load_dataset("alice/animals", split="train")
assert again.features["label"].names == ["cat", "dog"]
assert [row["image"].getpixel((0, 0))[0] for row in again] == list(range(6))
streamed = datasets.load_dataset("alice/animals", split="train", streaming=True)
assert [row["label"] for row in streamed] == [0, 1] * 3
"""


def test_timm_and_transformers_load_the_published_model_with_our_probabilities(hub, tmp_path, run_python):
    torch.manual_seed(0)
    model = timm.create_model("my_resnet18", num_classes=3).eval()
    model.pretrained_cfg |= {"input_size": (3, 48, 48), "test_input_size": (3, 64, 64), "test_crop_pct": 0.9}
    model.pretrained_cfg |= {"label_names": tuple(NAMES)}
    push_folder(save_folder(model, tmp_path / "export", class_names=NAMES), REPO, tag="v1", private=True)
    pixels = torch.randint(0, 256, (90, 70, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "image.png")
    done = run_python(PUBLISHED)
    assert done.returncode == 0, done.stderr
    by_timm, by_auto, by_pipeline = json.loads(done.stdout)
    expected = predict_probabilities(model, [tmp_path / "image.png"])[0].tolist()
    assert by_timm == by_auto == pytest.approx(by_pipeline, abs=1e-6)
    assert by_timm == pytest.approx(expected, abs=2e-3)  # our preprocessing may resize uint8 rather than PIL


def test_data_sets_are_pushed_loaded_and_streamed(hub, run_python):
    done = run_python(DATASETS)
    assert done.returncode == 0, done.stderr
    assert ("datasets", "alice/animals") in hub.storage.repos


def test_a_server_that_starts_again_has_everything_it_had(hub, tmp_path):
    model = timm.create_model("my_resnet20", num_classes=3)
    push_folder(save_folder(model, tmp_path / "export", class_names=NAMES), REPO, tag="v1")
    before = hub.storage.repos["models", REPO]
    after = type(hub.storage)(Path(hub.root)).repos["models", REPO]
    assert (after.branches, after.tags, after.commits) == (before.branches, before.tags, before.commits)
