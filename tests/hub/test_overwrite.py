"""Writing over a model folder: nothing that a person made is lost, and there is always a whole one."""

import os
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import resnet_hub
from resnet_hub.errors import HubError
from resnet_hub.files import remove_leftovers
from resnet_hub.hub import save_folder

NAMES = ["cat", "dog", "cow"]


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("my_resnet20", num_classes=3).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a figure, of the network of seed 0."""
    scratch = tmp_path_factory.mktemp("first")
    Image.new("RGB", (8, 8)).save(scratch / "curve.png")
    figures = {"Learning curves": scratch / "curve.png", "Обучение": scratch / "curve.png"}
    return save_folder(network(), scratch / "export", class_names=NAMES, figures=figures)


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


def save_over(folder: Path) -> Path:
    return save_folder(network(seed=1), folder, class_names=NAMES, overwrite=True)


def holds(folder: Path, seed: int) -> bool:
    return torch.equal(resnet_hub.load(folder).fc.weight, network(seed).fc.weight)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_model_folder_is_replaced_whole_and_nothing_stays_beside_it(folder):
    (folder / ".DS_Store").write_text("where its window was")
    assert save_over(folder) == folder
    assert holds(folder, seed=1)
    assert not (folder / "figures").exists()
    assert (folder / "README.md").read_bytes() == (folder / ".resnet_hub/card.md").read_bytes()
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (".git/config", r"\.git/\."),
        (".gitattributes", r"\.gitattributes\."),
        ("data/train/1.png", r"data/\."),
        ("notes.txt", r"notes\.txt"),
        ("figures/mine.png", r"figures/mine\.png"),
        (".eval_results/deep/x.yaml", r"\.eval_results/deep/\."),
        ("figures", None),
    ],
)
def test_a_model_folder_with_something_of_a_persons_in_it_is_refused_by_its_name(folder, name, shown):
    path = folder / name
    if shown is None:
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = files_below(folder)
    with pytest.raises(HubError, match=f"would remove: {shown or 'figures'}.*Move that elsewhere"):
        save_over(folder)
    assert files_below(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_link_in_a_model_folder_is_a_persons(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "model.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    (folder / "model.safetensors").symlink_to(elsewhere)
    with pytest.raises(HubError, match=r"would remove: model\.safetensors"):
        save_over(folder)


def test_of_many_foreign_files_a_few_are_named(folder):
    for number in range(12):
        (folder / f"{number:02d}.txt").touch()
    with pytest.raises(HubError, match=r"00\.txt, .*04\.txt and 7 more"):
        save_over(folder)


@pytest.mark.parametrize("config", [None, "{", "[]", '{"architecture": "resnet18"}'])
def test_a_folder_that_is_no_model_folder_of_ours_is_never_replaced(tmp_path, config):
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "src/train.py").write_text("print('mine')")
    if config is not None:
        (project / "config.json").write_text(config)
    before = files_below(project)
    with pytest.raises(HubError, match=r"not a model folder of resnet_hub.*Name another folder"):
        save_over(project)
    assert files_below(project) == before


def test_a_file_is_never_replaced_by_a_folder(tmp_path):
    (tmp_path / "export").write_text("mine")
    with pytest.raises(HubError, match="not a model folder"):
        save_over(tmp_path / "export")
    assert (tmp_path / "export").read_text() == "mine"


def test_an_empty_folder_is_taken_with_and_without_overwrite(tmp_path):
    for overwrite in (False, True):
        (tmp_path / str(overwrite)).mkdir()
        save_folder(network(), tmp_path / str(overwrite), class_names=NAMES, overwrite=overwrite)
        assert holds(tmp_path / str(overwrite), seed=0)


def test_edits_of_the_card_outlive_the_model_that_they_were_made_for(folder):
    card = folder / "README.md"
    edited = card.read_text().replace("## Limits", "My own words on cows.\n\n## Limits")
    card.write_text(edited.replace("library_name: timm", "library_name: timm\nlicense: mit"))
    for _ in range(2):
        save_over(folder)
        text = card.read_text()
        assert text.count("My own words on cows.") == 1
        assert text.count("license: mit") == 1
        assert "Learning-curves" not in text


def test_a_card_that_cannot_be_read_is_not_thrown_away(folder):
    (folder / "README.md").write_bytes("---\nlicense: mit\n---\nfür".encode("latin-1"))
    with pytest.raises(HubError, match="not UTF-8"):
        save_over(folder)
    assert holds(folder, seed=0)


@pytest.mark.parametrize("exists", [True, False], ids=["a model", "nothing"])
def test_through_a_link_the_folder_that_it_points_at_is_written_and_the_link_stays(folder, tmp_path, exists):
    target = folder.rename(tmp_path / "target")
    if not exists:
        shutil.rmtree(target)
    folder.symlink_to(target, target_is_directory=True)
    save_over(folder)
    assert folder.is_symlink()
    assert holds(target, seed=1)
    assert sorted(tmp_path.iterdir()) == [folder, target]


def test_when_the_new_folder_cannot_take_the_name_the_old_one_is_put_back(folder, monkeypatch):
    real_rename = Path.rename

    def failing_rename(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise PermissionError("a scanner of viruses has it open")
        return real_rename(path, target)

    before = files_below(folder)
    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(PermissionError):
        save_over(folder)
    assert files_below(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_an_old_folder_that_cannot_be_removed_is_no_failure_of_the_save(folder, monkeypatch):
    real_rmdir = os.rmdir

    def failing_rmdir(path: str, **options: int) -> None:
        if str(path).endswith((".old", "figures")):
            raise PermissionError("it is open elsewhere")
        real_rmdir(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", failing_rmdir)
        save_over(folder)
    assert holds(folder, seed=1)
    assert len(list(folder.parent.iterdir())) == 2
    remove_leftovers(folder.parent)
    assert list(folder.parent.iterdir()) == [folder]
    assert holds(folder, seed=1)


def test_after_a_kill_between_two_renames_the_old_folder_gets_its_name_back_with_its_edits(folder):
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMy own words.\n")
    folder.with_name(".export.0123456789abcdef.old").mkdir()  # which an earlier save could not remove
    shutil.copytree(folder, folder.with_name(".export.123456789abcdef0.part"))
    folder.rename(folder.with_name(".export.23456789abcdef01.old"))
    remove_leftovers(folder.parent)
    assert holds(folder, seed=0)
    assert list(folder.parent.iterdir()) == [folder]
    save_over(folder)
    assert "My own words." in (folder / "README.md").read_text()


def test_other_folders_beside_it_are_not_taken_for_scratch(folder):
    others = [
        folder.with_name(name)
        for name in (".export.mine", ".export.my_notes.part", ".export.a1.old", "export.old")
    ]
    for other in others:
        other.mkdir()
    remove_leftovers(folder.parent)
    assert sorted(folder.parent.iterdir()) == sorted([folder, *others])
