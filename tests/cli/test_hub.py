"""`resnet-hub push`, `download` and `card`, as a person types them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import hf_hub_download

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.errors import ConfigError
from resnet_hub.finetuning import FinetuneConfig
from resnet_hub.hub import save_folder
from tests.hub_server.fixtures import publish

pytest_plugins = ["tests.hub_server.fixtures"]

REPO = "alice/digits"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("my_resnet20", num_classes=2)
    run = tmp_path_factory.mktemp("runs") / "run"
    return save_folder(model, run / "export", class_names=["no", "yes"]).parent


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


@pytest.fixture
def at_a_terminal(monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)


def test_push_prints_the_address_with_the_commit(hub, folder, capsys):
    assert main(["push", str(folder), REPO, "--yes"]) == 0
    commit = hub.storage.repos["models", REPO].branches["main"]
    assert f"{hub.url}/{REPO}/tree/{commit}" in capsys.readouterr().out


@pytest.mark.parametrize("spelling", ["--create_pr", "--create-pr"])
def test_a_pull_request_is_printed(hub, folder, capsys, spelling):
    hub.storage.create("models", REPO)
    assert main(["push", str(folder), REPO, spelling]) == 0
    assert f"{hub.url}/{REPO}/discussions/1" in capsys.readouterr().out


def test_a_new_public_repository_is_made_only_after_a_yes(hub, folder, at_a_terminal, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda question: "")
    for options in ([], ["--create_pr"]):
        assert main(["push", str(folder), REPO, *options]) == 2
    assert ("models", REPO) not in hub.storage.repos
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(["push", str(folder), REPO]) == 0
    assert not hub.storage.repos["models", REPO].private


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE], ids=["none", "a pipe"])
def test_without_a_terminal_no_public_repository_is_made_unasked(hub, folder, stdin):
    command = [sys.executable, "-m", "resnet_hub", "push", str(folder), REPO]
    for more in ([], ["--create_pr"], ["--tag", "v1"]):
        done = subprocess.run([*command, *more], stdin=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "nothing was published. Add --private, or --yes" in done.stderr
    assert ("models", REPO) not in hub.storage.repos


def test_without_a_terminal_a_repository_that_is_there_is_pushed_to(hub, folder):
    hub.storage.create("models", REPO)
    assert main(["push", str(folder), REPO]) == 0


@pytest.mark.parametrize("words", [["--private"], ["--yes"]])
def test_nothing_is_asked_for_a_private_one_or_when_told_not_to(
    hub, folder, at_a_terminal, monkeypatch, words
):
    def refuse(question: str) -> str:
        raise AssertionError(question)

    monkeypatch.setattr("builtins.input", refuse)
    assert main(["push", str(folder), REPO, *words]) == 0
    assert hub.storage.repos["models", REPO].private == (words == ["--private"])


def test_a_failed_push_exits_with_2_and_says_how_to_repeat_it(hub, folder, capsys):
    hub.fail("POST .*/commit/", status=400, times=9)
    assert main(["push", str(folder), REPO, "--yes", "--tag", "v1"]) == 2
    assert f"resnet-hub push {folder / 'export'} {REPO} --tag v1" in capsys.readouterr().err


def test_download_prints_the_folder_and_copies_it_on_request(hub, folder, tmp_path, capsys):
    main(["push", str(folder), REPO, "--yes"])
    assert main(["download", REPO, "--output", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "copy")
    copied = resnet_hub.load(tmp_path / "copy")
    assert torch.equal(copied.fc.weight, resnet_hub.load(folder).fc.weight)
    assert main(["download", REPO, "--output", str(tmp_path / "copy")]) == 2


def test_a_copy_holds_what_was_checked_and_nothing_that_another_program_cached(hub, folder, tmp_path):
    main(["push", str(folder), REPO, "--yes"])
    repo = hub.storage.repos["models", REPO]
    extra = {"pytorch_model.bin": hub.storage.put(b"\x80\4."), "deep/notes.txt": hub.storage.put(b"notes")}
    commit = hub.storage.commit(repo, "main", "more", add=extra)
    cached = Path(hf_hub_download(REPO, "pytorch_model.bin"))
    (cached.parent / "left_by_somebody.py").write_text("print('hello')")
    assert main(["download", REPO, "--output", str(tmp_path / "copy")]) == 0
    copied = {
        path.relative_to(tmp_path / "copy").as_posix(): path.read_bytes()
        for path in (tmp_path / "copy").rglob("*")
        if path.is_file()
    }
    files = repo.commits[commit].files
    assert copied == {
        name: hub.storage.content(file) for name, file in files.items() if name != "pytorch_model.bin"
    }
    assert not any(path.is_symlink() for path in (tmp_path / "copy").rglob("*"))


def test_the_copy_of_a_models_published_weights_is_that_file_alone(hub, tmp_path, capsys):
    model = timm.create_model("my_resnet18")
    save_folder(model, tmp_path / "base", class_names=[str(number) for number in range(1000)])
    publish(hub, tmp_path / "base", "timm/resnet18.a1_in1k")
    hf_hub_download("timm/resnet18.a1_in1k", "README.md")
    assert main(["download", "my_resnet18", "--output", str(tmp_path / "copy")]) == 0
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["model.safetensors"]
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "copy")


def test_a_revision_of_a_models_name_is_refused_with_the_repository_to_name_instead(hub, capsys):
    assert main(["download", "my_resnet50", "--revision", "v1"]) == 2
    shown = capsys.readouterr().err
    assert "only a repository on the Hub (user/repo) has revisions" in shown
    assert "timm/resnet50.a1_in1k" in shown
    assert hub.seen == []


def test_card_prints_and_writes_what_the_folder_says(folder, capsys):
    assert main(["card", str(folder), "--repo_id", REPO]) == 0
    assert f'load("{REPO}")' in capsys.readouterr().out
    assert main(["card", str(folder), "--repo-id", REPO, "--write"]) == 0
    assert f'load("{REPO}")' in (folder / "export" / "README.md").read_text()


@pytest.mark.parametrize("verb", [["push", "nowhere", REPO], ["card", "nowhere"]])
def test_a_folder_that_is_not_there_is_bad_input(hub, verb, capsys):
    assert main(verb) == 2
    shown = capsys.readouterr().err
    assert "no folder" in shown
    assert "nowhere" in shown


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_card_takes_a_license_of_the_hub(folder, capsys):
    readme = folder / "export" / "README.md"
    assert main(["card", str(folder), "--license", "MIT"]) == 0
    assert front_matter(capsys.readouterr().out)["license"] == "mit"
    assert "license" not in front_matter(readme.read_text())
    readme.write_text(readme.read_text().replace("---\n", "---\nlicense: gemma\n", 1))
    for typed, written in (("cc-by-4.0", {"license": "cc-by-4.0"}), ("other", {"license": "other"})):
        assert main(["card", str(folder), "--license", typed, "--write"]) == 0
        assert written.items() <= front_matter(readme.read_text()).items()
        assert resnet_hub.load(folder).pretrained_cfg["license"] == typed
        assert main(["card", str(folder), "--write"]) == 0  # it stays
        assert written.items() <= front_matter(readme.read_text()).items()


def test_the_license_that_was_written_is_the_one_that_is_pushed(hub, folder):
    main(["push", str(folder), REPO, "--yes"])
    main(["card", str(folder), "--license", "other", "--write"])
    assert main(["push", str(folder), REPO]) == 0
    card = front_matter(Path(hf_hub_download(REPO, "README.md")).read_text())
    assert (card["license"], card["license_name"]) == ("other", "other")


@pytest.mark.parametrize(
    ("license_id", "message"),
    [("apache", "did you mean 'apache-2.0'"), ("Apache 2.0", "'apache-2.0'"), ("mine", "--license other")],
)
def test_a_license_that_the_hub_has_not_is_refused_with_the_nearest(folder, capsys, license_id, message):
    before = (folder / "export" / "README.md").read_bytes()
    assert main(["card", str(folder), "--license", license_id, "--write"]) == 2
    assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match=message):
        FinetuneConfig(dataset_name="digits", license=license_id)
    assert (folder / "export" / "README.md").read_bytes() == before
