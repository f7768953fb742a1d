"""`resnet-hub validate`: the numbers of the end of training again, and those of any model on any split."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from timm.data import ImageNetInfo

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.errors import DataError
from resnet_hub.finetuning import FinetuneConfig, finetune
from resnet_hub.finetuning.network.class_matching import match_classes
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.results import RunReport, wilson_interval
from tests.color_model import COLORS, photo
from tests.finetuning.image_files import table
from tests.hub_server.fixtures import publish

pytest_plugins = ["tests.hub_server.fixtures"]

TINY_STEPS = ("--model", "my_resnet20", "--no-pretrained", "--image_size", "16", "--max_train_steps", "2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on the digits, which are split by the run itself."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    finetune(
        FinetuneConfig(
            dataset_name="digits",
            model_name_or_path="my_resnet20",
            pretrained=False,
            image_size=8,
            horizontal_flip=0.0,
            per_device_train_batch_size=128,
            max_train_steps=4,
            output_dir=folder,
        )
    )
    return folder


def scores_of(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict:
    assert main(["validate", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_scored_again_with_the_numbers_of_its_report(run: Path, tmp_path: Path, capsys):
    output = tmp_path / "scores"
    found = scores_of(capsys, run, "--output_dir", output, "--batch_size", "50")
    report = RunReport.load(run / "report.json")
    for split in ("validation", "test"):
        score = getattr(report, split)
        assert found["scores"][split]["accuracy"] == score.accuracy
        assert found["scores"][split]["macro_f1"] == pytest.approx(score.macro_f1, abs=1e-9)
        assert found["scores"][split]["loss"] == pytest.approx(score.loss, abs=1e-6)
        assert found["splits"][split] == report.splits[split].how
    before, after = pq.read_table(run / "predictions.parquet"), pq.read_table(output / "predictions.parquet")
    assert before.drop_columns(["probability", "probabilities"]) == after.drop_columns(
        ["probability", "probabilities"]
    )
    shares = [np.stack(table["probabilities"].to_numpy()) for table in (before, after)]
    assert np.allclose(*shares, atol=1e-5)
    assert json.loads((output / "scores.json").read_text()) == found
    page = (output / "report.html").read_text()
    assert f"{100 * found['scores']['test']['accuracy']:.2f} %" in page
    assert "Calibration" in page
    assert "Learning curves" not in page
    assert main(["validate", str(run), "--output_dir", str(output)]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.fixture(scope="module")
def multi_label_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small multi-label network that has learned three colors, called 0, 1 and 2."""
    torch.manual_seed(0)
    model = timm.create_model("my_resnet20", num_classes=3)
    preprocessing = Preprocessing.of_model(model)
    images = [preprocessing(photo(name, number)) for number in range(8) for name in COLORS]
    pixels, labels = preprocessing.normalize(torch.stack(images)), torch.eye(3).repeat(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(model(pixels), labels).backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("multi") / "colors"
    resnet_hub.save_folder(model.eval(), folder, class_names=["0", "1", "2"])
    config = json.loads((folder / "config.json").read_text())
    config["resnet_hub"]["multi_label"] = True
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("feature", "label"),
    [
        (List(Value("int64")), lambda n: [int(n == place) for place in range(3)]),
        (List(Value("bool"), length=3), lambda n: [n == place for place in range(3)]),
        (List(ClassLabel(names=["0", "1", "2"])), lambda n: [n]),
        (List(Value("string")), lambda n: [str(n)]),
        (ClassLabel(names=["0", "1", "2"]), lambda n: n),
    ],
    ids=["vectors", "vectors of bool", "lists of classes", "lists of text", "one class"],
)
def test_a_multi_label_model_is_scored_on_images_of_one_class_each(
    multi_label_model: Path, tmp_path: Path, feature, label, capsys
):
    rows = [(number % 3, photo(list(COLORS)[number % 3], number)) for number in range(12)]
    features = Features({"image": datasets.Image(), "label": feature})
    data = {"image": [image for _, image in rows], "label": [label(number) for number, _ in rows]}
    datasets.DatasetDict(train=Dataset.from_dict(data, features=features)).save_to_disk(tmp_path / "data")
    found = scores_of(capsys, multi_label_model, "--dataset_name", tmp_path / "data")
    assert found["multi_label"]
    assert found["scores"]["train"]["accuracy"] == 1


def test_a_single_label_model_is_not_scored_on_images_of_several_classes(run: Path, tmp_path: Path, capsys):
    rows = table([[1], [0, 1], []], List(ClassLabel(names=["0", "1"])))
    datasets.DatasetDict(train=rows).save_to_disk(tmp_path)
    assert main(["validate", str(run), "--dataset_name", str(tmp_path)]) == 2
    assert "several labels or none, and the model is single-label" in capsys.readouterr().err


@pytest.mark.slow
def test_the_processes_of_a_launch_share_the_images_and_print_one_result(run: Path, capsys):
    alone = scores_of(capsys, run)
    launcher = str(Path(sys.executable).with_name("accelerate"))
    options = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    program = ["-m", "resnet_hub", "validate", str(run), "--json"]
    done = subprocess.run(
        [launcher, "launch", *options, "--dynamo_backend", "no", *program],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ACCELERATE_USE_CPU": "true"},
    )
    assert done.returncode == 0, done.stderr
    shared = json.loads(done.stdout)
    assert shared["environment"]["machine"]["processes"] == 2
    for split, score in alone["scores"].items():
        assert shared["scores"][split]["accuracy"] == score["accuracy"]
        assert shared["scores"][split]["loss"] == pytest.approx(score["loss"], abs=1e-6)


def test_one_split_of_a_run_and_the_table_for_a_person(run: Path, capsys):
    assert main(["validate", str(run), "--split", "test"]) == 0
    shown = capsys.readouterr().out
    accuracy = RunReport.load(run / "report.json").test.accuracy
    assert f"{accuracy:.2%}" in shown
    assert "validation" not in shown


def test_the_export_on_the_named_data_set_gives_what_its_predictions_say(run: Path, capsys):
    found = scores_of(capsys, run / "export", "--dataset_name", "digits", "--split", "all[:300]")
    score = found["scores"]["all[:300]"]
    assert score["num_images"] == 300
    rows = pq.read_table(run / "predictions.parquet").to_pylist()
    assert main(["predict", str(run), "--dataset_name", "digits", "--split", "all[:300]", "--json"]) == 0
    labels = {row["row"]: row["label"] for row in rows if row["row"] < 300}
    images = json.loads(capsys.readouterr().out)["images"]
    agree = sum(images[row]["predictions"][0]["label"] == label for row, label in labels.items())
    known = {row["row"]: row["predicted"] == row["label"] for row in rows if row["row"] < 300}
    assert agree == sum(known.values())
    assert score["accuracy_interval_95"] == pytest.approx(wilson_interval(score["accuracy"] * 300, 300))


def test_size_crop_and_mirror_images_change_the_numbers(run: Path, capsys):
    words = (run / "export", "--dataset_name", "digits", "--split", "all[:200]")
    plain = scores_of(capsys, *words)
    for more in (("--image_size", "16"), ("--crop_pct", "0.5"), ("--tta", "flip")):
        changed = scores_of(capsys, *words, *more)
        assert changed["scores"]["all[:200]"]["loss"] != plain["scores"]["all[:200]"]["loss"]
    assert (changed["image_size"], changed["test_time_augmentation"]) == (8, "flip")


def test_mirror_images_make_a_picture_and_its_mirror_equal(run: Path, tmp_path: Path, capsys):
    generator = np.random.default_rng(0)
    for side in ("left", "right"):
        for digit in "01":
            (tmp_path / side / digit).mkdir(parents=True)
    for number in range(6):
        pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "left" / str(number % 2) / f"{number}.png")
        Image.fromarray(pixels[:, ::-1].copy()).save(tmp_path / "right" / str(number % 2) / f"{number}.png")
    losses = {}
    for tta in ("none", "flip"):
        for side in ("left", "right"):
            found = scores_of(capsys, run, "--dataset_name", tmp_path / side, "--tta", tta)
            losses[tta, side] = found["scores"]["train"]["loss"]
    assert losses["flip", "left"] == pytest.approx(losses["flip", "right"], abs=1e-6)
    assert losses["none", "left"] != pytest.approx(losses["none", "right"], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--split", "tset"], "has no split 'tset'"),
        (["{run}/export"], "Say what to score"),
        (["{run}", "--label_column_name", "label"], "goes with --dataset_name"),
        (["{run}", "--crop_pct", "2"], "above 0 and at most 1"),
        (["{run}", "--image_size", "0"], "1 or more"),
        (["{run}", "--dataset_name", "digits", "--split", "test"], "has no split 'test'"),
        (["my_resnet32", "--dataset_name", "digits"], "no pretrained weights"),
    ],
    ids=str,
)
def test_a_mistake_is_exit_code_2(run: Path, words: list[str], message: str, capsys):
    assert main(["validate", *(word.format(run=run) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_run_whose_data_set_has_changed_is_not_compared_with_itself(run: Path, tmp_path: Path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints")  # they have a copy
    path = copy / "environment.json"
    path.write_text(path.read_text().replace('"data_fingerprint": "', '"data_fingerprint": "0'))
    assert main(["validate", str(copy)]) == 2
    assert "no longer the one" in capsys.readouterr().err


@pytest.mark.parametrize("output_dir", ["runs/colors", "{elsewhere}"])
def test_a_run_with_relative_paths_is_used_from_another_folder(
    output_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    project = tmp_path / "project"
    for color in COLORS:
        (project / "photos" / color).mkdir(parents=True)
        for number in range(12):
            photo(color, number).save(project / "photos" / color / f"{number}.png")
    monkeypatch.chdir(project)
    folder = Path(output_dir.format(elsewhere=tmp_path / "run")).absolute()
    words = ["--train_dir", "photos", "--output_dir", output_dir.format(elsewhere=folder), *TINY_STEPS]
    assert main(["finetune", *words]) == 0
    capsys.readouterr()
    wanted = scores_of(capsys, folder)["scores"]
    (tmp_path / "other/photos/red").mkdir(parents=True)  # another folder of that name
    monkeypatch.chdir(tmp_path / "other")
    relative = os.path.relpath(folder)
    assert scores_of(capsys, relative)["scores"] == wanted
    for verb in (
        ["predict", relative, str(project / "photos"), "--temperature", "auto"],
        ["export", relative, "--output_dir", "files", "--formats", "pt2"],
        ["compare", relative, "--output", "page.html"],
        ["card", relative],
    ):
        assert main(verb) == 0, verb
    assert "validation images of the run" in capsys.readouterr().out
    report = RunReport.load(folder / "report.json")
    assert str(project) not in json.dumps(report.environment)
    if not output_dir.startswith("{"):
        project.rename(tmp_path / "moved")
        assert scores_of(capsys, "../moved/runs/colors")["scores"] == wanted


def test_classes_are_matched_by_name_in_any_order():
    assert match_classes(["cat", "ant"], ["ant", "bee", "cat"]).tolist() == [2, 0]
    with pytest.raises(
        DataError, match=r"does not know 2 of the 3 classes.*'cats', 'owl'.*did you mean 'cat'"
    ):
        match_classes(["cats", "ant", "owl"], ["ant", "bee", "cat"])


@pytest.fixture(scope="module")
def imagenet() -> tuple[list[str], list[str]]:
    """Synsets, and descriptions as models of ImageNet-1k name their classes."""
    info = ImageNetInfo("imagenet-1k")
    return list(info.label_names()), [str(info.index_to_description(number)) for number in range(1000)]


def test_imagenets_classes_are_known_by_synset_by_number_and_by_their_order(imagenet):
    synsets, descriptions = imagenet
    assert match_classes([synsets[7], synsets[3]], descriptions).tolist() == [7, 3]
    numbers = sorted(str(number) for number in range(1000))
    assert match_classes(numbers, descriptions).tolist() == [int(number) for number in numbers]
    spelt = [name.split(",")[0].upper() + str(number) for number, name in enumerate(descriptions)]
    assert match_classes(spelt, descriptions).tolist() == list(range(1000))


def test_a_thousand_other_names_or_another_model_are_not_imagenet(imagenet):
    synsets, descriptions = imagenet
    with pytest.raises(DataError):
        match_classes([name.split(",")[0] + "0" for name in reversed(descriptions)], descriptions)
    with pytest.raises(DataError):
        match_classes(synsets[:10], [f"class {number}" for number in range(1000)])


def test_published_weights_are_scored_on_folders_of_synsets(hub, imagenet, tmp_path: Path, capsys):
    torch.manual_seed(0)
    model = timm.create_model("my_resnet18").eval()
    resnet_hub.save_folder(model, tmp_path / "weights", class_names=[str(number) for number in range(1000)])
    publish(hub, tmp_path / "weights", "timm/resnet18.a1_in1k")
    generator = np.random.default_rng(0)
    images, labels = [], []
    for synset in imagenet[0][10:13]:
        (tmp_path / "val" / synset).mkdir(parents=True)
        images.append(Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=np.uint8)))
        images[-1].save(tmp_path / "val" / synset / "a.png")
        labels.append(imagenet[0].index(synset))
    found = scores_of(capsys, "my_resnet18", "--dataset_name", tmp_path / "val")
    assert found["image_size"] == 288  # the size of the published accuracy
    transform = timm.data.create_transform(
        **timm.data.resolve_model_data_config(timm.create_model("resnet18.a1_in1k"), use_test_size=True)
    )
    with torch.inference_mode():
        logits = model(torch.stack([transform(image) for image in images]))
    expected = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(labels))
    assert found["scores"]["train"]["loss"] == pytest.approx(float(expected), abs=1e-5)
