"""Terminal, report, page and card name the exported weights, and macro F1 stands beside every accuracy."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_hub.cli.main import main as resnet_hub_command
from resnet_hub.finetuning.__main__ import main
from resnet_hub.results import RunReport

MODEL = ("--model", "my_resnet20.formula_signs500", "--image_size", "16", "--num_train_epochs", "2")


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training folder of noisy red and blue images, twelve to one."""
    folder = tmp_path_factory.mktemp("data") / "balloons" / "train"
    generator = np.random.default_rng(0)
    for name, count, color in (("blue", 96, (90, 90, 160)), ("red", 8, (160, 90, 90))):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.array(color) + generator.normal(0, 60, (16, 16, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def worse_than_probe(unbalanced: Path, tmp_path_factory, request) -> tuple[Path, str]:
    """A run whose rate is far too high, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "worse"
    printed = request.getfixturevalue("capture")
    arguments = [*MODEL, "--train_dir", str(unbalanced), "--learning_rate", "3", "--output_dir", str(folder)]
    assert main(arguments) == 0
    return folder, printed()


@pytest.fixture(scope="module")
def capture(request):
    """A function that gives what was printed since it was last called, for fixtures of a module."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    manager.read_global_capture()
    return lambda: "".join(manager.read_global_capture())


def test_training_that_did_not_beat_the_probe_is_named_everywhere_with_what_to_try(worse_than_probe):
    folder, printed = worse_than_probe
    exported = json.loads((folder / "report.json").read_text())["exported"]
    assert exported["epoch"] == 0
    assert exported["linear_probe_score"] >= exported["best_epoch_score"]
    page, card = ((folder / name).read_text() for name in ("report.html", "export/README.md"))
    assert "exported   linear probe. Training did not beat it" in printed
    assert "| Exported weights | linear probe. Training did not beat it" in card
    assert "Exported: linear probe. Training did not beat it" in page
    assert "exported: linear probe" in page  # a tile, and the mark in the curves
    for said in (printed, card, page):
        assert re.search(r"Try more epochs .*--num_train_epochs.*--learning_rate", said)


def test_imbalance_is_told_before_training_and_macro_f1_stands_beside_every_accuracy(
    worse_than_probe, capsys, tmp_path: Path
):
    folder, printed = worse_than_probe
    lines = printed.splitlines()
    (note,) = [number for number, line in enumerate(lines) if "--class_weights balanced" in line]
    assert note < min(number for number, line in enumerate(lines) if line.startswith("linear probe"))
    scored = [line for line in lines if re.search(r"accuracy +[0-9.]+%", line)]
    assert len(scored) == 5  # the probe, two epochs, validation and test
    assert all(re.search(r"macro F1 0\.\d{4}", line) for line in scored)
    found = RunReport.load(folder / "report.json").test
    assert found is not None
    for arguments in (["validate", str(folder)], ["compare", str(folder)]):
        assert resnet_hub_command(arguments) == 0
        assert f"{found.macro_f1:.4f}" in capsys.readouterr().out
    card = (folder / "export/README.md").read_text()
    assert f"{found.macro_f1:.4f}" in card.split("## Results")[1].split("##")[0]


def test_the_data_set_bears_the_name_of_the_folder_above_train(worse_than_probe):
    folder, printed = worse_than_probe
    page, card = ((folder / name).read_text() for name in ("report.html", "export/README.md"))
    assert re.search(r"data set +balloons\n", printed)
    assert "on <bdi>balloons</bdi>" in page
    assert "| Data set | balloons |" in card


def test_what_the_rule_decided_is_not_listed_as_asked(worse_than_probe):
    page = (worse_than_probe[0] / "report.html").read_text()
    asked, decided = (
        page.split(f"<summary>{title}</summary>")[1].split("</details>")[0]
        for title in ("Options asked for", "Options decided by the rule")
    )
    assert "learning_rate" in asked
    assert "weight_decay" not in asked
    assert "weight_decay" in decided
    assert "learning_rate" not in decided
    assert "differ from the defaults" not in page


def test_without_validation_the_last_epoch_is_named_as_the_last(unbalanced: Path, tmp_path: Path, capsys):
    arguments = [*MODEL, "--train_dir", str(unbalanced), "--test_dir", str(unbalanced)]
    arguments += ["--validation_fraction", "0", "--output_dir", str(tmp_path / "run")]
    assert main(arguments) == 0
    text = "epoch 2 of 2, the last: no validation split"
    assert f"exported   {text}" in "\n".join(capsys.readouterr())
    assert RunReport.load(tmp_path / "run/report.json").exported_text == text
    assert text in (tmp_path / "run/export/README.md").read_text()
    assert "exported: epoch 2" in (tmp_path / "run/report.html").read_text()
