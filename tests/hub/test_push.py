"""Publishing: everything arrives, once, and is read back; what goes wrong loses nothing."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi

import resnet_hub
from resnet_hub.errors import HubError
from resnet_hub.hub import push_folder
from tests.hub_server import HubServer
from tests.hub_server.fixtures import REPO, files_on

pytest_plugins = ["tests.hub_server.fixtures"]


def snapshot(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def number_of_commits(hub: HubServer) -> int:
    return len(hub.storage.repos["models", REPO].commits)


def test_one_commit_has_every_file_and_the_record_names_it(hub, folder):
    record = push_folder(folder, REPO)
    repo = hub.storage.repos["models", REPO]
    assert record.commit == repo.branches["main"]
    assert record.url == f"{hub.url}/{REPO}/tree/{record.commit}"
    assert number_of_commits(hub) == 2  # the Hub's own, and ours
    published = files_on(hub)
    assert published["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert published["config.json"] == (folder / "config.json").read_bytes()
    assert REPO in published["README.md"].decode()
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in published)


def test_a_name_alone_means_the_owner_of_the_token(hub, folder):
    assert push_folder(folder, "digits").repo_id == REPO


def test_what_was_pushed_loads_with_the_same_answers(hub, folder):
    record = push_folder(folder, REPO)
    images = torch.randn(2, 3, 32, 32)
    local, published = resnet_hub.load(folder), resnet_hub.load(REPO, revision=record.commit)
    assert torch.equal(local(images), published(images))


def test_pushing_again_makes_no_second_commit(hub, folder):
    first = push_folder(folder, REPO)
    assert push_folder(folder, REPO).commit == first.commit
    assert number_of_commits(hub) == 2


def test_the_folder_stays_as_it_was(hub, folder):
    before = snapshot(folder)
    push_folder(folder, REPO)
    assert snapshot(folder) == before


def test_a_private_repository_is_made_and_an_existing_public_one_is_not_taken_for_it(hub, folder):
    push_folder(folder, REPO, private=True)
    assert hub.storage.repos["models", REPO].private
    hub.storage.repos["models", REPO].private = False
    with pytest.raises(HubError, match="is public, and a private one was asked for"):
        push_folder(folder, REPO, private=True)


def test_a_branch_is_made_and_main_is_left_alone(hub, folder):
    push_folder(folder, REPO, revision="trial")
    assert "model.safetensors" in files_on(hub, "trial")
    assert "model.safetensors" not in files_on(hub, "main")


def test_a_pull_request_is_opened_once_though_the_push_is_repeated(hub, folder):
    first = push_folder(folder, REPO, create_pr=True)
    assert first.pull_request == f"{hub.url}/{REPO}/discussions/1"
    again = push_folder(folder, REPO, create_pr=True)
    assert (again.commit, again.pull_request) == (first.commit, first.pull_request)
    assert hub.storage.repos["models", REPO].pulls == 1
    assert "model.safetensors" not in files_on(hub)


def test_a_tag_is_set_and_never_moved(hub, folder):
    record = push_folder(folder, REPO, tag="v1")
    assert hub.storage.repos["models", REPO].tags == {"v1": record.commit}
    push_folder(folder, REPO, tag="v1")
    hub.storage.commit(hub.storage.repos["models", REPO], "main", "later", add={"x": hub.storage.put(b"x")})
    with pytest.raises(HubError, match="has the tag 'v1' already"):
        push_folder(folder, REPO, tag="v1")


@pytest.mark.parametrize("where", [{}, {"revision": "trial"}, {"create_pr": True}], ids=str)
def test_a_tag_that_stands_for_other_content_is_refused_before_anything_is_sent(hub, folder, where):
    push_folder(folder, REPO, tag="v1", **where)
    repo = hub.storage.repos["models", REPO]
    before, refs = number_of_commits(hub), dict(repo.branches)
    push_folder(folder, REPO, tag="v1", **where)  # the very same is there already
    (folder / "NOTES.txt").write_text("changed")
    with pytest.raises(HubError, match=r"has the tag 'v1' already.*Nothing was sent"):
        push_folder(folder, REPO, tag="v1", **where)
    assert (number_of_commits(hub), dict(repo.branches)) == (before, refs)


def test_a_taken_tag_is_refused_before_a_branch_is_made(hub, folder):
    push_folder(folder, REPO, tag="v1")
    (folder / "NOTES.txt").write_text("changed")
    with pytest.raises(HubError, match="has the tag 'v1' already"):
        push_folder(folder, REPO, tag="v1", revision="trial")
    assert "trial" not in hub.storage.repos["models", REPO].branches


@pytest.mark.parametrize(
    ("where", "fault"),
    [
        ("POST .*/commit/", {"status": 500, "after": True}),
        ("POST .*/commit/", {"drop": True, "after": True}),
        ("POST .*/commit/", {"status": 503}),
        ("POST .*/commit/", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("POST .*/commit/", {"status": 412}),
        ("POST .*/commit/", {"drop": True}),
        ("POST /api/repos/create", {"status": 500, "after": True}),
        ("POST /api/repos/create", {"drop": True, "after": True}),
        ("POST .*/preupload/", {"status": 503}),
        ("PUT /lfs/upload", {"status": 500}),
        ("PUT /lfs/upload", {"drop": True}),
        ("PUT /lfs/upload", {"delay": 1.0}),
        ("POST .*objects/batch", {"status": 502}),
        ("POST .*objects/verify", {"status": 500}),
        ("^GET /lfs/", {"corrupt": True}),
        ("^GET /lfs/", {"cut_at": 0.5}),
        ("^GET /api/models/alice/digits$", {"status": 500}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_after_a_passing_fault_the_push_is_whole_with_exactly_one_commit(hub, folder, where, fault):
    planned = hub.fail(where, **fault)
    record = push_folder(folder, REPO)
    assert planned.met == 1
    assert record.commit == hub.storage.repos["models", REPO].branches["main"]
    assert number_of_commits(hub) == 2
    assert files_on(hub)["model.safetensors"] == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("fault", [{"status": 500, "after": True}, {"drop": True, "after": True}], ids=str)
def test_a_pull_request_whose_answer_was_lost_is_found_and_not_opened_twice(hub, folder, fault):
    hub.storage.create("models", REPO)
    hub.fail("POST .*/commit/", **fault)
    assert push_folder(folder, REPO, create_pr=True).pull_request == f"{hub.url}/{REPO}/discussions/1"
    assert hub.storage.repos["models", REPO].pulls == 1


@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        ("PUT /lfs/upload", {"status": 507, "times": 99}, "507"),
        ("POST .*/commit/", {"status": 400, "times": 99}, "400"),
        ("POST .*/commit/", {"status": 403, "times": 99}, "forbids"),
        ("^GET /lfs/", {"corrupt": True, "times": 99}, "damaged twice"),
    ],
    ids=["storage full", "refused commit", "forbidden", "wrong bytes come back"],
)
def test_a_lasting_fault_loses_nothing_and_names_the_command_that_repeats_the_push(
    hub, folder, where, fault, message
):
    before = snapshot(folder)
    hub.fail(where, **fault)
    with pytest.raises(HubError, match=message) as error:
        push_folder(folder, REPO, tag="v1", private=True)
    assert str(error.value).endswith(f"resnet-hub push {folder} {REPO} --private --tag v1")
    assert snapshot(folder) == before
    hub.faults.clear()
    push_folder(folder, REPO, tag="v1", private=True)
    assert number_of_commits(hub) == 2


def test_somebody_elses_commit_in_between_is_not_overwritten(hub, folder):
    push_folder(folder, REPO)
    (folder / "NOTES.txt").write_text("new")
    repo = hub.storage.repos["models", REPO]
    theirs = {"theirs.txt": hub.storage.put(b"theirs")}
    hub.fail("POST .*/commit/", meanwhile=lambda: hub.storage.commit(repo, "main", "theirs", add=theirs))
    push_folder(folder, REPO)
    assert files_on(hub)["theirs.txt"] == b"theirs"
    assert files_on(hub)["NOTES.txt"] == b"new"
    assert [seen.status for seen in hub.seen if "/commit/" in seen.path][-2:] == [412, 200]


def test_without_rights_the_message_says_so(hub, folder, monkeypatch):
    hub.tokens["hf_testtokenofbob000000"] = "bob"
    monkeypatch.setenv("HF_TOKEN", "hf_testtokenofbob000000")
    with pytest.raises(HubError, match="forbids this for alice/digits"):
        push_folder(folder, REPO)


def test_without_a_token_nothing_is_asked(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="hf auth login"):
        push_folder(folder, REPO)
    assert hub.seen == []


def test_a_folder_that_is_not_whole_is_refused_before_anything_is_asked(hub, folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(HubError, match="damaged"):
        push_folder(folder, REPO)
    assert hub.seen == []


def test_pickles_links_and_hidden_files_stay_at_home(hub, folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"\x80\4.")
    (folder / ".env").write_text("SECRET=1")
    (tmp_path / "elsewhere.txt").write_text("private")
    (folder / "linked.txt").symlink_to(tmp_path / "elsewhere.txt")
    record = push_folder(folder, REPO)
    assert not {"pytorch_model.bin", ".env", "linked.txt"} & set(record.files)
    assert not {"pytorch_model.bin", ".env", "linked.txt"} & set(files_on(hub))


def test_a_file_that_holds_a_token_is_not_published(hub, folder):
    (folder / "log.txt").write_text("used hf_" + "a1B2" * 9)
    with pytest.raises(HubError, match=r"log\.txt holds what looks like a token"):
        push_folder(folder, REPO)
    assert hub.seen == []


def test_edits_of_the_card_on_the_hub_survive_the_next_push(hub, folder):
    push_folder(folder, REPO)
    api = HfApi()
    card = files_on(hub)["README.md"].decode()
    edited = card.replace("## Limits", "Taken with my own camera.\n\n## Limits").replace(
        "library_name: timm", "library_name: timm\nlanguage: de"
    )
    api.upload_file(path_or_fileobj=edited.encode(), path_in_repo="README.md", repo_id=REPO)
    config = json.loads((folder / "config.json").read_text())
    config["resnet_hub"]["note"] = "second push"
    (folder / "config.json").write_text(json.dumps(config))
    for _ in range(2):
        push_folder(folder, REPO)
        published = files_on(hub)["README.md"].decode()
        assert published.count("Taken with my own camera.") == 1
        assert yaml.safe_load(published.split("---")[1])["language"] == "de"


def test_edits_of_the_card_in_the_folder_are_published_once(hub, folder):
    card = folder / "README.md"
    card.write_text(card.read_text().replace("## Limits", "Only for play.\n\n## Limits"))
    for _ in range(2):
        push_folder(folder, REPO)
        assert files_on(hub)["README.md"].decode().count("Only for play.") == 1


def test_a_card_that_was_there_before_us_keeps_its_text(hub, folder):
    hub.storage.create("models", REPO)
    repo = hub.storage.repos["models", REPO]
    card = b"---\nlicense: mit\nlanguage: fr\n---\n# My model\n\nWritten by hand.\n"
    hub.storage.commit(repo, "main", "card", add={"README.md": hub.storage.put(card)})
    push_folder(folder, REPO)
    published = files_on(hub)["README.md"].decode()
    data = yaml.safe_load(published.split("---")[1])
    assert "Written by hand." in published
    assert "## How to use it" in published
    assert (data["license"], data["language"], data["library_name"]) == ("mit", "fr", "timm")
