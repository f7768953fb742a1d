"""The line of a card that installs this package, which is on no registry: it can be carried out."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from resnet_hub.hub import save_folder

ROOT = Path(__file__).parents[2]
COMMAND = "from resnet_hub.cards.installing import install_command; print(install_command())"
HOST = "https://github.com/someone/resnet_hub"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the package's repository."""
    folder = tmp_path_factory.mktemp("clone") / "resnet_hub"
    shutil.copytree(ROOT / "resnet_hub", folder / "resnet_hub", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    git(folder, *who, "commit", "--quiet", "--message", "first")
    return folder


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def installed(folder: Path, *, project_url: str = "", direct_url: dict | None = None) -> Path:
    """A folder in which the package is noted as installed, by its metadata alone."""
    notes = folder / "resnet_hub-0.1.0.dist-info"
    notes.mkdir(parents=True)
    address = f"Project-URL: Repository, {project_url}\n" if project_url else ""
    (notes / "METADATA").write_text(f"Metadata-Version: 2.4\nName: resnet_hub\nVersion: 0.1.0\n{address}")
    if direct_url is not None:
        (notes / "direct_url.json").write_text(json.dumps(direct_url))
    return folder


def run(*words: str | Path, paths: tuple[Path, ...], cwd: Path) -> str:
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=variables, cwd=cwd, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def would_install(line: str, *, cwd: Path) -> bool:
    options = ("--dry-run", "--no-deps", "--ignore-installed")
    said = run("-m", "pip", *shlex.split(line), *options, paths=(), cwd=cwd)
    return re.search(r"Would install resnet[-_]hub-0\.1\.0", said) is not None


def test_the_line_of_a_card_installs_from_the_repository_of_the_metadata(repository, tmp_path: Path):
    model = timm.create_model("my_resnet20", num_classes=2)
    folder = save_folder(model, tmp_path / "model", class_names=["no", "yes"])
    site = installed(tmp_path / "site", project_url=repository.as_uri())
    card = run("-m", "resnet_hub", "card", folder, paths=(site, ROOT), cwd=tmp_path)
    (line,) = re.findall(r"`pip (install [^`]*)`", card)
    assert would_install(line, cwd=tmp_path)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (HOST, f"pip install git+{HOST}@{'0' * 40}"),
        ("https://git.company.example/ml/resnet_hub", "None"),
        ("https://user:secret@github.com/someone/resnet_hub", "None"),
        ("file:///home/ann/resnet_hub", "None"),
    ],
)
def test_a_package_from_a_public_repository_is_named_by_it_and_a_private_one_is_not(
    url: str, expected: str, tmp_path: Path
):
    record = {"url": url, "vcs_info": {"vcs": "git", "commit_id": "0" * 40}}
    site = installed(tmp_path / "site", direct_url=record)
    copied = tmp_path / "package"
    shutil.copytree(ROOT / "resnet_hub", copied / "resnet_hub", ignore=shutil.ignore_patterns("weights"))
    assert run("-c", COMMAND, paths=(site, copied), cwd=tmp_path) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (f"{HOST}.git", f"pip install git+{HOST}.git"),
        ("git@github.com:someone/resnet_hub.git", f"pip install git+{HOST}.git"),
        ("ssh://git@github.com/someone/resnet_hub.git", f"pip install git+{HOST}.git"),
        ("git@git.company.example:ml/resnet_hub.git", "None"),
        ("../resnet_hub", "None"),
    ],
)
def test_a_clone_is_named_by_its_public_origin(origin: str, expected: str, repository, tmp_path: Path):
    site = installed(
        tmp_path / "site", direct_url={"url": repository.as_uri(), "dir_info": {"editable": True}}
    )
    git(repository, "remote", "add", "origin", origin)
    try:
        assert run("-c", COMMAND, paths=(site, repository), cwd=tmp_path) == expected
    finally:
        git(repository, "remote", "remove", "origin")


def test_without_a_known_repository_the_card_asks_for_a_path(tmp_path: Path, repository):
    model = timm.create_model("resnet18", num_classes=2)
    folder = save_folder(model, tmp_path / "model", class_names=["no", "yes"])
    site = installed(tmp_path / "site")
    card = run("-m", "resnet_hub", "card", folder, paths=(site, repository), cwd=tmp_path)
    assert "pip install PATH" in card
    assert "pip install resnet_hub`" not in card
    line = f"install {shlex.quote(str(repository))}"
    assert would_install(line, cwd=tmp_path)
