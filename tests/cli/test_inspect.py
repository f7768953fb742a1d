"""`resnet-hub inspect` finds a wrong label and names its file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_hub.cli.main import main


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Plain pictures in red and blue, one of them in the wrong folder."""
    root = tmp_path_factory.mktemp("photos") / "colors"
    generator = np.random.default_rng(0)
    for name, color in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (root / name).mkdir(parents=True)
        for number in range(20):
            noise = generator.integers(-30, 30, (32, 32, 3))
            pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}.png")
    (root / "red" / "07.png").rename(root / "blue" / "stray.png")
    return root


def test_a_picture_in_the_wrong_folder_is_the_first_suspect(photos: Path, tmp_path: Path, capsys):
    output = tmp_path / "suspects.csv"
    words = ["inspect", str(photos), "--model", "my_resnet20", "--image_size", "32"]
    assert main([*words, "--output", str(output)]) == 0
    assert "may be wrong" in capsys.readouterr().out
    first = next(csv.DictReader(output.open()))
    assert Path(first["file"]).name == "stray.png"
    assert (first["label"], first["suggested"]) == ("blue", "red")
    assert main([*words, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert Path(records[0]["file"]).name == "stray.png"
    assert main([*words, "--output", str(output)]) == 2  # nothing is written over


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["inspect", "nowhere/at/all"], "there is no such file or folder"),
        (["inspect", "digits", "--model", "my_resnet21"], "There is no model"),
        (["inspect", "digits", "--at_most", "0"], "1 or more"),
    ],
)
def test_what_cannot_be_inspected_is_refused(words: list[str], said: str, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err
