"""What newcomers are told is true: files exist, and tools have the versions of `pyproject.toml`."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`([\w/]+/[\w./]*)`", GUIDE))))
def test_files_that_contributors_are_sent_to_exist(named: str):
    assert (ROOT / named).exists() or (ROOT / "resnet_hub" / named).exists()


@pytest.mark.parametrize(
    "named", sorted(set(re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", GUIDE, re.MULTILINE)))
)
def test_targets_that_contributors_are_told_of_exist(named: tuple[str, str]):
    assert f"\n{''.join(named)}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_functions_that_contributors_are_sent_to_exist():
    for file, function in re.findall(r"`([\w/]+\.py)`, `([a-z_]+)`", GUIDE):
        assert f"def {function}(" in (ROOT / "resnet_hub" / file).read_text(encoding="utf-8")


def test_commits_are_checked_by_the_tools_of_the_tests():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    pins = {pin for hook in hooks for pin in hook.get("additional_dependencies", ())}
    assert pins
    assert pins <= set(PROJECT["optional-dependencies"]["test"])


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / ".github/CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_workflows_and_templates_can_be_read(path: Path):
    assert "name" in yaml.safe_load(path.read_text(encoding="utf-8"))
