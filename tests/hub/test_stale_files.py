"""Publishing again: what an earlier push sent and this one lacks goes, and what others put there stays."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import CommitOperationAdd, HfApi

from resnet_hub.hub import push_folder, save_folder
from resnet_hub.hub.commit import PUSHED_FILE
from tests.hub_server import HubServer
from tests.hub_server.fixtures import REPO, files_on

pytest_plugins = ["tests.hub_server.fixtures"]

FIGURE, SCORES = "figures/01-Loss.png", ".eval_results/alice-digits.yaml"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a figure and with scores for the Hub."""
    torch.manual_seed(0)
    scratch = tmp_path_factory.mktemp("run")
    (scratch / "loss.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    model = timm.create_model("my_resnet20", num_classes=2)
    folder = save_folder(
        model, scratch / "export", class_names=["no", "yes"], figures={"Loss": scratch / "loss.png"}
    )
    (folder / SCORES).parent.mkdir()
    (folder / SCORES).write_text("- value: 0.9\n")
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


@pytest.fixture
def pushed(hub: HubServer, folder: Path) -> Path:
    """The folder without its figure and its scores, which an earlier push has brought to the Hub."""
    push_folder(folder, REPO)
    (folder / FIGURE).unlink()
    (folder / SCORES).unlink()
    return folder


def put_there(files: dict[str, bytes]) -> None:
    """Commit files as another person would, with a client of the Hub."""
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
    HfApi().create_commit(REPO, operations, commit_message="by hand")


def test_a_figure_and_scores_of_an_earlier_push_go_with_the_next_that_lacks_them(hub, pushed):
    assert {FIGURE, SCORES} <= set(files_on(hub))
    push_folder(pushed, REPO)
    assert not {FIGURE, SCORES} & set(files_on(hub))
    assert len(hub.storage.repos["models", REPO].commits) == 3  # the Hub's own, and ours


def test_files_of_others_stay_though_their_names_are_like_ours(hub, pushed):
    theirs = {"figures/01-photo.png": b"photo", ".eval_results/mteb-imagenet-v2.yaml": b"- value: 1\n"}
    put_there(theirs)
    for _ in range(2):
        push_folder(pushed, REPO)
        assert {name: files_on(hub).get(name) for name in theirs} == theirs
        assert FIGURE not in files_on(hub)


def test_a_figure_and_scores_of_ours_that_somebody_changed_stay(hub, pushed):
    changed = {FIGURE: b"\x89PNG\r\n\x1a\nretouched", SCORES: b"- value: 0.8\n"}
    put_there(changed)
    for _ in range(2):
        push_folder(pushed, REPO)
        assert {name: files_on(hub).get(name) for name in changed} == changed


def test_what_was_pushed_before_there_was_a_record_stays(hub, pushed):
    HfApi().delete_file(PUSHED_FILE, REPO)
    push_folder(pushed, REPO)
    assert {FIGURE, SCORES, PUSHED_FILE} <= set(files_on(hub))


@pytest.mark.parametrize(
    "record",
    [b"", b"\xff", b"[]", b"[" * 100_000, b'{"README.md": 1}', f'{{"{FIGURE}": ["", 3]}}'.encode()],
    ids=["empty", "no text", "a list", "deep", "a number", "wrong sums"],
)
def test_a_record_that_somebody_spoiled_deletes_nothing_and_stops_nothing(hub, pushed, record: bytes):
    put_there({PUSHED_FILE: record})
    push_folder(pushed, REPO)
    assert {FIGURE, SCORES} <= set(files_on(hub))
    assert files_on(hub)[PUSHED_FILE] == b"{}\n"


def test_a_record_cannot_name_other_files_than_figures_and_scores_for_deletion(hub, pushed):
    git_name = hub.storage.put(b"theirs").oid
    put_there({"notes.txt": b"theirs", PUSHED_FILE: f'{{"notes.txt": ["{git_name}"]}}'.encode()})
    push_folder(pushed, REPO)
    assert files_on(hub)["notes.txt"] == b"theirs"


def test_the_record_of_a_copied_folder_is_not_taken_for_that_of_the_repository(hub, pushed):
    (pushed / PUSHED_FILE).write_bytes(files_on(hub)[PUSHED_FILE])
    put_there({PUSHED_FILE: b"{}"})
    push_folder(pushed, REPO)
    assert {FIGURE, SCORES} <= set(files_on(hub))
    assert files_on(hub)[PUSHED_FILE] == b"{}\n"


def test_somebody_who_changes_our_figure_during_the_push_is_not_overrun(hub, pushed):
    hub.fail("POST .*/commit/", meanwhile=lambda: put_there({FIGURE: b"\x89PNG\r\n\x1a\nretouched"}))
    push_folder(pushed, REPO)
    assert files_on(hub)[FIGURE].endswith(b"retouched")
    assert SCORES not in files_on(hub)


def test_a_branch_knows_what_main_had_from_us_and_main_keeps_it(hub, pushed):
    push_folder(pushed, REPO, revision="trial")
    assert not {FIGURE, SCORES} & set(files_on(hub, "trial"))
    assert {FIGURE, SCORES} <= set(files_on(hub))


def test_pushing_the_same_folder_with_figures_again_makes_no_second_commit(hub, folder):
    first = push_folder(folder, REPO, tag="v1")
    assert push_folder(folder, REPO, tag="v1").commit == first.commit
