"""Where the encoding of standard output lacks a letter, another is printed, and no work is lost."""

import codecs
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_hub.cli.main import VERBS, main
from tests.color_model import COLORS, photo
from tests.hub_server.fixtures import REPO

pytest_plugins = ["tests.hub_server.fixtures"]

CLASSES = dict(zip(["猫 katze", "œuf", "ñandú"], COLORS, strict=True))
STEPS = ("--model", "my_resnet20", "--no-pretrained", "--image_size", "16", "--max_train_steps", "1")
ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.slow),
    pytest.param({"LC_ALL": "C"}, marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "фото"
    for name, color in CLASSES.items():
        (folder / name).mkdir(parents=True)
        for number in range(10):
            photo(color, number).save(folder / name / f"{name} {number}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path) -> Path:
    """A run in a folder with such a name."""
    folder = photos.with_name("запуск")
    assert main(["finetune", "--train_dir", str(photos), "--output_dir", str(folder), *STEPS]) == 0
    return folder


class Output(io.TextIOWrapper):
    """A file or a terminal that knows few letters and is strict about them."""

    def __init__(self, encoding: str, *, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal

    def text(self) -> str:
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


def words_of(verb: str, run: Path, photos: Path, folder: Path) -> list[str]:
    words = {
        "list": ["--pretrained"],
        "info": ["my_resnet50"],
        "check": ["my_resnet20"],
        "finetune": ["--train_dir", photos, "--print_config"],
        "validate": [run],
        "inspect": [photos, "--model", run, "--output", folder / "ñ.csv"],
        "predict": [run, photos],
        "download": [REPO, "--output", folder / "ñ"],
        "card": [run],
        "compare": [run, "--output", folder / "ñ.html"],
        "push": [run, "alice/animals", "--private"],
        "export": [run, "--formats", "pt2", "--output_dir", folder / "ñ"],
        "demo": [run, "--examples", photos, "--space", folder / "ñ"],
    }
    return [verb, *map(str, words[verb])]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("encoding", "is_terminal"), [("ascii", False), ("cp1252", True)])
def test_every_verb_prints_what_it_can(
    published, run, photos, monkeypatch, tmp_path: Path, *, verb: str, encoding: str, is_terminal: bool
):
    output = Output(encoding, is_terminal=is_terminal)
    monkeypatch.setattr("sys.stdout", output)
    assert main(words_of(verb, run, photos, tmp_path)) == 0
    assert output.text().strip()
    if verb in ("predict", "card"):
        assert "? katze" in output.text()


def test_json_is_whole_in_every_encoding(run, photos, monkeypatch):
    for encoding in ("ascii", "latin-1", "cp1252", "utf-8"):
        output = Output(encoding)
        monkeypatch.setattr("sys.stdout", output)
        assert main(["predict", str(run), str(photos), "--json"]) == 0
        (*_, last) = json.loads(output.text())["images"]
        assert {found["label"] for found in last["predictions"]} == set(CLASSES)
        assert ("\\u" in output.text()) == (codecs.lookup(encoding).name != "utf-8")


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
def test_a_run_is_trained_measured_and_reported(environment: dict[str, str], photos, tmp_path: Path):
    output_dir = tmp_path / "ñ 猫"
    words = ["finetune", "--train_dir", str(photos), "--output_dir", str(output_dir), *STEPS]
    done = subprocess.run(
        [sys.executable, "-m", "resnet_hub", *words],
        env={name: value for name, value in os.environ.items() if name != "LANG"} | environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "猫 katze" in (output_dir / "export/README.md").read_text(encoding="utf-8")


def test_a_file_whose_name_is_no_text_is_refused_before_any_work(run, tmp_path: Path, capsys):
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    photo("red", 1).save(bad)
    for source in (bad, str(tmp_path / "*.png"), str(tmp_path)):
        assert main(["predict", str(run), source, "--output", str(tmp_path / "found.csv")]) == 2
        assert "is not UTF-8" in capsys.readouterr().err
