"""Clients with and without hf_xet, on Hubs that have and lack a Xet store: the model arrives."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

import resnet_hub
from resnet_hub.errors import HubError
from resnet_hub.hub import push_folder
from tests.hub_server.fixtures import REPO, assert_same_weights

pytest_plugins = ["tests.hub_server.fixtures"]


@pytest.fixture
def with_hf_xet(hub, monkeypatch):
    """The client uses Xet where it can, as it does on a machine of a user; the other fixtures forbid it."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)


def test_a_push_that_xet_does_not_take_goes_over_plain_http_in_one_commit(hub, with_hf_xet, folder):
    record = push_folder(folder, REPO)
    asked = [seen.path.split("/alice/digits")[-1] for seen in hub.seen]
    assert "/xet-write-token/main" in asked
    assert any(seen.path.startswith("/lfs/upload/") and seen.status == 200 for seen in hub.seen)
    assert len(hub.storage.repos["models", REPO].commits) == 2  # the Hub's own, and ours
    assert_same_weights(resnet_hub.load(folder), resnet_hub.load(REPO, revision=record.commit))


def test_without_hf_xet_a_file_in_xet_comes_over_plain_http_and_is_checked_all_the_same(hub, folder):
    push_folder(folder, REPO)
    hub.announces_xet = True
    damaged = hub.fail("^GET /lfs/", corrupt=True)
    assert_same_weights(resnet_hub.load(folder), resnet_hub.load(REPO))
    assert damaged.met == 1
    assert not any("xet-read-token" in seen.path for seen in hub.seen)


def test_where_xet_is_out_of_reach_the_error_names_the_plain_way(hub, with_hf_xet, folder, monkeypatch):
    push_folder(folder, REPO)
    hub.announces_xet = True
    with pytest.raises(HubError, match="HF_HUB_DISABLE_XET=1"):
        resnet_hub.load(REPO)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assert_same_weights(resnet_hub.load(folder), resnet_hub.load(REPO))


def test_a_damaged_file_in_the_store_that_repositories_share_is_thrown_out_and_fetched_again(hub, folder):
    push_folder(folder, REPO)
    resnet_hub.load(REPO)
    cache = Path(constants.HF_HUB_CACHE)
    (blob,) = [path for path in cache.rglob("blobs/*") if len(path.name) == 64]
    shared = publish_blob_to_shared_store(  # what huggingface_hub does after a download from Xet
        blob_path=str(blob), xet_hash="ab" * 32, cache_dir=cache, expected_size=blob.stat().st_size
    )
    assert shared
    assert blob.is_symlink()
    assert_same_weights(resnet_hub.load(folder), resnet_hub.load(REPO))
    stored = blob.resolve()
    stored.chmod(0o600)
    with stored.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff\xff")
    assert_same_weights(resnet_hub.load(folder), resnet_hub.load(REPO))
    assert not stored.exists()
