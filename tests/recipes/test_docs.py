"""README is true: its Python runs, its commands parse, its links lead somewhere, its table is the family."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

import resnet_hub
from resnet_hub.finetuning.config.flags import parse_command_line
from resnet_hub.models.my_resnet import OWN, TIMM_LIKE
from tests.hub_server.fixtures import publish

pytest_plugins = ["tests.hub_server.fixtures"]

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "recipes/README.md"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


def write_photos(folder: Path) -> None:
    """Twelve dark and twelve light ones, in a folder each."""
    generator = np.random.default_rng(0)
    for name, lowest in (("dark", 0), ("light", 150)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = generator.integers(lowest, lowest + 100, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def test_the_python_of_readme_runs(hub, run_python, tmp_path: Path):
    Image.fromarray(np.full((300, 400, 3), 128, np.uint8)).save(tmp_path / "photo.jpg")
    write_photos(tmp_path / "photos")
    names = [f"class {number}" for number in range(1000)]
    model = timm.create_model("my_resnet50")
    resnet_hub.save_folder(model, tmp_path / "weights", class_names=names)
    publish(hub, tmp_path / "weights", "timm/resnet50.a1_in1k")
    resnet_hub.save_folder(model, tmp_path / "runs/photos/export", class_names=names)
    python_blocks = blocks(ROOT / "README.md", "python")
    assert len(python_blocks) == 4
    for block in python_blocks:
        done = run_python(f"import os; os.chdir({str(tmp_path)!r})\n{block}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_parse(page: Path):
    scripts = {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.py")}
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        script = next((word for word in words if word.startswith("recipes/") and word.endswith(".py")), None)
        assert script is None or script in scripts, words
        if script == "recipes/finetune.py" or "resnet_hub.finetuning" in words:
            arguments = words[words.index(script or "resnet_hub.finetuning") + 1 :]
            if arguments != ["--help"]:
                parse_command_line(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_shell_scripts_of_a_page_are_scripts(page: Path):
    for script in blocks(page, "bash"):
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_line_for_the_machines_of_the_hub_is_understood_by_its_client():
    words = next(
        words for words in commands(ROOT / "recipes/README.md") if words[:3] == ["hf", "jobs", "run"]
    )
    program = Path(sys.executable).with_name("hf")
    inner = shlex.split(words[-1].partition("&&")[2])
    assert inner[:2] == ["resnet-hub", "finetune"]
    parse_command_line(inner[2:])
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_" + "x" * 30}
    done = subprocess.run(
        [program, *words[1:3], "--dry-run", *words[3:]],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert "Job not submitted" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_table_of_the_family_is_the_family():
    text = (ROOT / "README.md").read_text()
    table = text[text.index("## The family") : text.index("`resnet-hub list")]
    named = set()
    for cell in re.findall(r"^\| (`my_[^|]*) \|", table, flags=re.MULTILINE):
        for group in cell.split(", "):
            first, *others = re.findall(r"`([^`]+)`", group)
            prefix = re.match(r"my_[a-z_]*?(?=\d)", first)
            assert prefix is not None
            named |= {first} | {prefix[0] + other for other in others}
    assert named == set(TIMM_LIKE | OWN)  # without what other tests register


def test_the_result_in_readme_is_the_recorded_one():
    claim = re.search(r"recipes/LOG.md\): (.+?)\.\s*\n\n", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert claim is not None
    log = " ".join((ROOT / "recipes/LOG.md").read_text().split())
    for number in re.findall(r"\d+(?:[.,]\d+)? (?:%|s|epochs)", " ".join(claim[1].split())):
        assert number in log, number
