"""Names from outside stand on a terminal as text: no markup, no control characters, nothing left out."""

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from resnet_hub.cli.tables import print_json, print_record, print_rows
from resnet_hub.terminal import print_document, printable, say

pytest_plugins = ["tests.hub_server.fixtures"]

# name -> what a terminal has to show of it
NAMES = {
    "[tabby]": "[tabby]",
    "[/red]": "[/red]",
    "[link=file:///etc/passwd]x[/link]": "[link=file:///etc/passwd]x[/link]",
    "[bold red]": "[bold red]",
    "\\[b]": "\\[b]",
    ":cat:": ":cat:",
    "\x1b[2J\x1b[31mred": "\\x1b[2J\\x1b[31mred",
    "\x1b]8;;http://evil\x1b\\x": "\\x1b]8;;http://evil\\x1b\\x",
    "\x9b31m": "\\x9b31m",
    "cat\rdog": "cat\\rdog",
    "a\x00b\x07\x08": "a\\x00b\\x07\\x08",
    "line\nbreak\ttab": "line\\nbreak\\ttab",
    "\u202egnp.exe": "\\u202egnp.exe",
    "\u2066x\u2069\u200f": "\\u2066x\\u2069\\u200f",
    "a\u2028b": "a\\u2028b",
    "写真 é 👩‍🚀": "写真 é 👩‍🚀",
}
OF_RICH = re.compile(r"\x1b\[([0-9;]*m|\?25[lh]|2K|1A)")  # its own colors, and its bars


def steering(text: str) -> set[str]:
    kinds = {letter: unicodedata.category(letter) for letter in text if letter not in "\n\r\u200d"}
    return {letter for letter, kind in kinds.items() if kind in ("Cc", "Cf", "Cs", "Zl", "Zp")}


def on_terminal(*words: str | Path, columns: int = 500) -> tuple[int, str]:
    """Exit code and output of a command whose stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, *map(str, words)], stdout=theirs, stderr=theirs, stdin=theirs, env=environment
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65536):
            output += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return process.wait(), OF_RICH.sub("", output.decode().replace("\r\n", "\n"))


@pytest.fixture(scope="module")
def labelled(exported, tmp_path_factory) -> Path:
    """A model whose classes have all those names."""
    folder = tmp_path_factory.mktemp("model")
    config = json.loads((exported[1] / "config.json").read_text())
    names = list(NAMES)[:10]
    config["label_names"] = names
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes((exported[1] / "model.safetensors").read_bytes())
    return folder


def test_predict_on_a_terminal_shows_every_label_and_file_name_as_it_is(labelled, tmp_path):
    files = [name for name in NAMES if not {"/", "\0"} & set(name)]
    for name in files:
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.png")
    broken = tmp_path / "[broken]\x1b[31m.png"
    broken.write_bytes(b"\x1b[31mno image")
    code, shown = on_terminal("-m", "resnet_hub", "predict", labelled, tmp_path, "--top_k", 10, columns=2000)
    assert code == 0, shown
    assert not steering(shown)
    for name in list(NAMES)[:10]:
        assert shown.count(NAMES[name]) >= len(files)
    for name in files:
        assert f"/{NAMES[name]}.png" in shown
    assert "[broken]\\x1b[31m.png" in shown


def test_a_run_on_a_terminal_shows_its_classes_and_data_set_as_they_are(tmp_path):
    data = tmp_path / "[photos]\x1b[31m"
    names = ["[tabby]", "[bold red]", ":cat:", "\x1b[2Jcat", "\u202egnp"]
    for number, name in enumerate(names):
        (data / name).mkdir(parents=True)
        for copy in range(4):
            Image.new("RGB", (32, 32), (number * 40, copy * 40, 0)).save(data / name / f"{copy}.png")
    code, shown = on_terminal(
        "-m", "resnet_hub.finetuning", "--train_dir", data, "--model", "my_resnet20", "--no-pretrained",
        "--dry_run", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, shown
    assert not steering(shown)
    for text in ("[photos]\\x1b[31m", "[tabby]", "[bold red]", ":cat:", "\\x1b[2Jcat", "\\u202egnp"):
        assert text in shown


def test_an_error_and_a_warning_spell_out_control_characters(tmp_path):
    code, shown = on_terminal("-m", "resnet_hub", "card", "nowhere\x1b[31m\u202e[/red]")
    assert (code, steering(shown)) == (2, set())
    assert "[/red]" in shown
    log = "from resnet_hub.terminal import show_log; import logging; show_log()\n"
    code, shown = on_terminal("-c", f"{log}logging.getLogger('x').warning('%s', 'a\\x1b[2J\\u202e[/b]')")
    assert (code, shown) == (0, "a\\x1b[2J\\u202e[/b]\n")


@pytest.mark.parametrize("show", [print_rows, print_record, print_json], ids=lambda show: show.__name__)
def test_a_pipe_gets_no_control_characters_either(show, capsys):
    row = {f"name {number}": name for number, name in enumerate(NAMES)}
    show(**{"print_rows": {"rows": [row]}, "print_record": {"record": row, "as_json": False}}.get(
        show.__name__, {"value": row}
    ))  # fmt: skip
    printed = capsys.readouterr().out
    assert not steering(printed)
    if show is print_json:
        assert json.loads(printed) == row
    else:
        assert all(shown in printed for shown in NAMES.values())


def test_json_says_the_same_of_what_no_stream_could_print(capsys):
    names = ["\ud800", "\udcff", "\U000e0001", "é", "\x7f"]
    print_json(names)
    assert json.loads(capsys.readouterr().out) == names


def test_a_document_reaches_a_file_unchanged(capsys):
    say("a\u200fb")
    print_document("a\u200fb\n")
    assert capsys.readouterr().out == "a\\u200fb\na\u200fb\n"


def test_letters_of_all_scripts_stay_as_they_are():
    for text in ("naïve café", "中文　空格", "می‌خواهم", "👩‍🚀", "a\u00a0b"):
        assert printable(text) == text
