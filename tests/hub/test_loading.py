"""Loading from the Hub: the right bytes, or an error that helps, within seconds."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi, constants, hf_hub_download

import resnet_hub
from resnet_hub.downloads.download import PICKLES, download, download_files
from resnet_hub.errors import HubError, ModelError
from resnet_hub.hub import refresh_card, save_folder
from resnet_hub.models.names import fetch_weights, registry_name
from resnet_hub.prediction.open_model import open_model
from tests.hub_server.fixtures import NAMES, REPO, assert_same_weights, publish, weights_of

pytest_plugins = ["tests.hub_server.fixtures"]


def test_a_model_comes_back_with_every_bit_and_its_class_names(published, hub):
    model = resnet_hub.load(REPO)
    assert_same_weights(published, model)
    assert not model.training
    assert model.pretrained_cfg["label_names"] == tuple(NAMES)


@pytest.mark.parametrize("source", [f"hf-hub:{REPO}", f"{REPO}@main"])
def test_other_ways_to_write_the_name_are_understood(published, hub, source):
    assert_same_weights(published, resnet_hub.load(source))


def test_timm_loads_our_variant_from_the_hub_after_the_import(published, hub):
    assert_same_weights(published, timm.create_model(f"hf-hub:{REPO}", pretrained=True))


def test_an_old_commit_is_loaded_by_its_id_and_by_its_tag(published, hub, tmp_path):
    first = hub.storage.repos["models", REPO].branches["main"]
    hub.storage.repos["models", REPO].tags["v1"] = first
    other = timm.create_model("my_resnet20", num_classes=10)
    save_folder(other, tmp_path / "other", class_names=NAMES)
    publish(hub, tmp_path / "other")
    assert_same_weights(published, resnet_hub.load(REPO, revision=first))
    assert_same_weights(published, resnet_hub.load(REPO, revision="v1"))
    assert_same_weights(other, resnet_hub.load(REPO))


def test_config_and_weights_come_from_one_commit_though_the_branch_moves_between(published, hub):
    resnet_hub.load(REPO)
    asked = [seen.path for seen in hub.seen if "/resolve/" in seen.path]
    assert sum("/resolve/main/" in path for path in asked) == 1


def test_a_cached_commit_is_loaded_without_any_request(published, hub):
    commit = hub.storage.repos["models", REPO].branches["main"]
    resnet_hub.load(REPO, revision=commit)
    hub.seen.clear()
    resnet_hub.load(REPO, revision=commit)
    assert hub.seen == []


def test_offline_the_cache_is_used_and_no_socket_is_opened(published, hub, monkeypatch):
    resnet_hub.load(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert_same_weights(published, resnet_hub.load(REPO))


def test_offline_without_a_copy_the_error_names_the_cache_within_two_seconds(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set") as error:
        resnet_hub.load(REPO)
    assert time.monotonic() - start < 2
    assert constants.HF_HUB_CACHE in str(error.value)


def test_a_dead_hub_is_reported_within_seconds_with_the_ways_out(no_hub):
    start = time.monotonic()
    with pytest.raises(HubError) as error:
        resnet_hub.load(REPO)
    assert time.monotonic() - start < 5
    for word in (constants.HF_HUB_CACHE, "HF_ENDPOINT", "--no-pretrained", REPO):
        assert word in str(error.value)


def test_a_mistyped_folder_is_not_answered_as_a_repository_alone(no_hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/pets").mkdir(parents=True)
    with pytest.raises(HubError, match=r"There is no folder runs/pet\. In runs: did you mean 'pets'\?"):
        resnet_hub.load("runs/pet")


def test_a_run_that_is_not_finished_is_no_model_yet(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(HubError, match="a run that is not finished"):
        resnet_hub.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "twin"),
    [({"anti_alias": "blur"}, "resnetblur18"), ({"stem": "deep", "shortcut": "avgpool"}, "resnet18d")],
    ids=["blur", "deep"],
)
def test_a_folder_of_an_earlier_version_that_names_the_wrong_variant_is_loaded_as_what_it_is(
    tmp_path, options, twin
):
    model = timm.create_model("my_resnet18", num_classes=10, zero_init_last=False, **options).eval()
    folder = save_folder(model, tmp_path / "export", class_names=NAMES)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    assert config["architecture"] == twin
    config["resnet_hub"]["variant"] = "my_resnet18"  # as it was written, beside the right architecture
    path.write_text(json.dumps(config))
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(resnet_hub.load(folder)(images), model(images))
    assert f"| Architecture | `my_{twin}` |" in refresh_card(folder, repo_id=None).read_text()


def test_timms_own_network_stays_timms_own_when_it_was_saved_here(tmp_path):
    model = timm.create_model("resnet18", num_classes=10)
    again = resnet_hub.load(save_folder(model, tmp_path / "export", class_names=NAMES))
    assert type(again) is type(model)
    assert_same_weights(model, again)


def test_missing_pretrained_weights_are_reported_within_seconds(no_hub):
    start = time.monotonic()
    with pytest.raises(HubError, match="timm/resnet50") as error:
        fetch_weights(registry_name("my_resnet50"))
    assert time.monotonic() - start < 5
    assert "--no-pretrained" in str(error.value)


@pytest.mark.slow
def test_a_hub_that_accepts_and_never_answers_is_given_up_within_fifteen_seconds(hub):
    hub.fail("HEAD", delay=20, times=9)
    start = time.monotonic()
    with pytest.raises(HubError, match="--no-pretrained"):
        fetch_weights(registry_name("my_resnet18"))
    assert time.monotonic() - start < 15


def test_a_dead_hub_does_not_matter_when_the_model_is_cached(published, hub):
    resnet_hub.load(REPO)
    hub.fail("HEAD", drop=True, times=99)
    start = time.monotonic()
    assert_same_weights(published, resnet_hub.load(REPO))
    assert time.monotonic() - start < 5


def test_published_weights_are_fetched_checked_and_given_as_a_file_for_timm(hub, tmp_path):
    model = timm.create_model("resnet18")
    save_folder(model, tmp_path / "base", class_names=[str(number) for number in range(1000)])
    publish(hub, tmp_path / "base", "timm/resnet18.a1_in1k")
    path = fetch_weights(registry_name("my_resnet18.a1_in1k"))
    assert path is not None
    hub.seen.clear()
    again = timm.create_model(
        "my_resnet18.a1_in1k", pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    )
    assert_same_weights(model, again)
    assert hub.seen == []


def test_a_model_without_published_weights_gives_none(hub):
    assert fetch_weights(registry_name("my_resnet20")) is None


def test_a_mistyped_tag_of_weights_is_answered_with_those_there_are(hub):
    with pytest.raises(ModelError, match=r"no weights 'my_resnet18\.a1_in2k'.*'my_resnet18\.a1_in1k'"):
        fetch_weights(registry_name("my_resnet18.a1_in2k"))


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 503, "times": 2},
        {"status": 500, "times": 1},
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"drop": True},
        {"cut_at": 0.25},
        {"cut_at": 0.9},
        {"short_by": 7},
        {"corrupt": True},
        {"cut_at": 0.5, "ignore_range": True},
        {"status": 403},
        {"delay": 1.0},
    ],
    ids=lambda fault: "-".join(map(str, fault)),
)
def test_a_passing_fault_of_the_download_is_got_over_with_the_right_bytes(published, hub, fault):
    planned = hub.fail("^GET /lfs/", **fault)
    assert_same_weights(published, resnet_hub.load(REPO))
    assert planned.met == planned.times


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"drop": True}], ids=str)
def test_a_passing_fault_of_the_first_question_is_got_over(published, hub, fault):
    hub.fail("^HEAD .*config.json", **fault)
    assert_same_weights(published, resnet_hub.load(REPO))


def test_bytes_that_are_wrong_again_and_again_are_refused_and_not_kept(published, hub):
    hub.fail("^GET /lfs/", corrupt=True, times=99)
    with pytest.raises(HubError, match="damaged twice"):
        resnet_hub.load(REPO)
    assert weights_of(constants.HF_HUB_CACHE) == []


def test_a_poisoned_cache_heals_itself(published, hub):
    resnet_hub.load(REPO)
    (cached,) = weights_of(constants.HF_HUB_CACHE)
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    assert_same_weights(published, resnet_hub.load(REPO))
    (healed,) = weights_of(constants.HF_HUB_CACHE)
    assert hashlib.sha256(healed.read_bytes()).hexdigest() == healed.name


def test_a_poisoned_cache_is_refused_when_offline(published, hub, monkeypatch):
    resnet_hub.load(REPO)
    (cached,) = weights_of(constants.HF_HUB_CACHE)
    cached.write_bytes(cached.read_bytes()[:-1] + b"\0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="damaged in the cache"):
        resnet_hub.load(REPO)


def test_a_page_of_a_captive_portal_is_not_taken_for_a_file(published, hub):
    hub.fail("HEAD", body="<html>Please log in to the Wi-Fi</html>", times=99)
    with pytest.raises(HubError, match="not a Hub"):
        resnet_hub.load(REPO)


def test_a_private_repository_needs_the_token_of_its_owner(published, hub, monkeypatch):
    hub.storage.repos["models", REPO].private = True
    assert_same_weights(published, resnet_hub.load(REPO))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"hides it: asked without a token.*HF_TOKEN"):
        resnet_hub.load(REPO, cache_dir=Path(os.environ["HF_HOME"]) / "other")


def test_a_gated_repository_says_where_to_ask_for_access(published, hub, monkeypatch):
    hub.storage.repos["models", REPO].gated = True
    hub.tokens["hf_testtokenofbob000000"] = "bob"
    monkeypatch.setenv("HF_TOKEN", "hf_testtokenofbob000000")
    with pytest.raises(HubError, match=f"gated.*{hub.url}/{REPO}"):
        resnet_hub.load(REPO)
    hub.storage.repos["models", REPO].granted.append("bob")
    assert_same_weights(published, resnet_hub.load(REPO))


def test_a_token_that_the_hub_does_not_know_is_named_as_the_fault_and_not_shown(published, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_forgottenandrevoked11")
    with pytest.raises(HubError, match="does not accept the token") as error:
        resnet_hub.load(REPO)
    assert "hf_forgotten" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "revision", "message"),
    [
        ("alice/nothing", None, "has no alice/nothing"),
        (REPO, "v9", "no branch, tag or commit 'v9'"),
        ("no such folder", None, "neither a folder nor the name of a repository"),
        ("alice/a b c", None, "'owner/name'"),
    ],
)
def test_what_does_not_exist_is_said_plainly(published, hub, source, revision, message):
    with pytest.raises(HubError, match=message):
        resnet_hub.load(source, revision=revision)


def test_a_repository_without_weights_is_told_from_one_that_cannot_be_read(published, hub):
    hub.storage.commit(
        hub.storage.repos["models", REPO], "main", "gone", add={}, delete=("model.safetensors",)
    )
    with pytest.raises(HubError, match=r"has no file 'model\.safetensors'"):
        resnet_hub.load(REPO)


def test_a_revision_of_a_folder_is_refused(exported):
    with pytest.raises(HubError, match="a folder has no revisions"):
        resnet_hub.load(exported[1], revision="v1")


def test_an_offline_download_is_checked_as_well(published, hub, monkeypatch):
    folder = download(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert download(REPO) == folder
    (cached,) = weights_of(constants.HF_HUB_CACHE)
    cached.write_bytes(cached.read_bytes()[:-1] + b"\0")
    with pytest.raises(HubError, match="damaged in the cache"):
        download(REPO)


def test_a_download_has_every_file_checked_and_no_pickle(published, hub):
    repo = hub.storage.repos["models", REPO]
    hub.storage.commit(repo, "main", "a pickle", add={"pytorch_model.bin": hub.storage.put(b"\x80\4.")})
    hub.fail("^GET /lfs/", corrupt=True)
    folder = download(REPO)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model.safetensors", "config.json", "README.md"} <= names
    assert "pytorch_model.bin" not in names
    assert HfApi().verify_repo_checksums(REPO).mismatches == []


def test_a_pickle_that_another_program_cached_is_no_part_of_an_offline_download(published, hub, monkeypatch):
    repo = hub.storage.repos["models", REPO]
    hub.storage.commit(repo, "main", "a pickle", add={"pytorch_model.bin": hub.storage.put(b"\x80\4.")})
    online = download_files(REPO)
    hf_hub_download(REPO, "pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = download_files(REPO)
    assert "pytorch_model.bin" in {path.name for path in offline.folder.iterdir()}
    assert set(offline.names) == set(online.names)
    assert "pytorch_model.bin" not in offline.names


def test_the_token_goes_to_the_hub_alone_and_never_to_the_store_of_large_files(published, hub):
    resnet_hub.load(REPO)
    assert all(seen.authorization is None for seen in hub.seen if seen.origin == "store")
    assert any(seen.authorization for seen in hub.seen if seen.origin == "hub")


def test_timms_own_create_model_is_quick_to_say_that_there_is_no_hub(no_hub):
    started = time.monotonic()
    with pytest.raises(HubError, match="HF_ENDPOINT") as refused:
        timm.create_model("my_resnet18", pretrained=True)
    assert time.monotonic() - started < 15
    assert "--no-pretrained" in str(refused.value)


def test_timms_own_create_model_gets_the_checked_file(hub, tmp_path: Path):
    model = timm.create_model("my_resnet18", num_classes=1000)
    save_folder(model, tmp_path / "weights", class_names=[f"class {number}" for number in range(1000)])
    publish(hub, tmp_path / "weights", "timm/resnet18.a1_in1k")
    assert_same_weights(model, timm.create_model("my_resnet18", pretrained=True))
    assert_same_weights(model, timm.create_model("my_resnet18.a1_in1k", pretrained=True))
    failing = hub.fail("HEAD", status=503, times=3)
    assert_same_weights(model, timm.create_model("my_resnet18", pretrained=True))
    assert failing.met == 3
    fault = hub.fail("GET .*model.safetensors|GET /lfs/", corrupt=True, times=9)
    for path in weights_of(constants.HF_HUB_CACHE):
        path.unlink()
    with pytest.raises(HubError):
        timm.create_model("my_resnet18", pretrained=True)
    assert fault.met >= 1


@pytest.mark.parametrize("ending", [*PICKLES, ".pth.tar"])
def test_a_pickle_is_not_read_and_the_message_tells_what_to_do_with_it(ending: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(f"own{ending}")
    torch.save(timm.create_model("my_resnet20", num_classes=2).state_dict(), file)
    for source in (f"own{ending}", str(file.absolute()), file):
        for read in (resnet_hub.load, open_model):
            with pytest.raises(resnet_hub.UserError, match="is a pickle") as refused:
                read(source)
            message = str(refused.value)
            assert message.count(". ") == 1
            assert f"torch.load({str(source)!r}, weights_only=True)" in message
            assert "resnet_hub.save_folder(model, 'own', class_names=[...])" in message


def test_what_the_message_on_a_pickle_tells_to_type_makes_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("my_resnet20", num_classes=2)
    torch.save(model.state_dict(), "own.pth")
    model.load_state_dict(torch.load("own.pth", weights_only=True))
    resnet_hub.save_folder(model, "own", class_names=["no", "yes"])
    assert_same_weights(resnet_hub.load("own"), model)


def test_a_pickle_that_is_not_there_and_other_files_are_named_as_what_they_are(tmp_path, no_hub):
    with pytest.raises(HubError, match="is a pickle"):
        resnet_hub.load("own.pth")
    (tmp_path / "alone").mkdir()
    for name in ("alone/own.safetensors", "model.safetensors", "config.json", "notes.txt"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(HubError, match=r"no config\.json beside it"):
        resnet_hub.load(tmp_path / "alone/own.safetensors")
    for name in ("model.safetensors", "notes.txt"):
        with pytest.raises(HubError, match=r"is a file, and a model is a folder"):
            resnet_hub.load(tmp_path / name)
