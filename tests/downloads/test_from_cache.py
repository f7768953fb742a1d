"""A model that is cached loads, whatever is wrong with the Hub; what the Hub says is gone stays gone."""

import time

import pytest
import torch
from huggingface_hub import constants

import resnet_hub
from resnet_hub.errors import HubError
from tests.hub_server.fixtures import REPO, assert_same_weights, weights_of

pytest_plugins = ["tests.hub_server.fixtures"]


@pytest.fixture
def cached(published: torch.nn.Module) -> torch.nn.Module:
    """The small model, which is on the Hub as alice/digits and has been loaded from there once."""
    resnet_hub.load(REPO)
    return published


@pytest.mark.parametrize("status", [401, 408, 429, 500, 503])
def test_a_hub_that_does_not_serve_does_not_matter_when_the_model_is_cached(cached, hub, status, caplog):
    commit = hub.storage.repos["models", REPO].branches["main"]
    hub.fail("HEAD", status=status, headers={"Retry-After": "2"}, times=99)
    start = time.monotonic()
    assert_same_weights(cached, resnet_hub.load(REPO))
    assert time.monotonic() - start < 5
    said = {401: "does not accept the token", 429: "Rate-limited by the Hub (429)"}
    (warning,) = [text for text in caplog.messages if "from the cache" in text]
    assert said.get(status, f"failed with {status}") in warning
    assert commit in warning


def test_a_token_that_was_revoked_does_not_matter_when_the_model_is_cached(cached, hub, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_forgottenandrevoked11")
    assert_same_weights(cached, resnet_hub.load(REPO))
    assert "does not accept the token" in caplog.text
    assert "hf_forgotten" not in caplog.text


def test_a_busy_hub_that_has_a_newer_commit_is_asked_again_before_the_cache_is_taken(cached, hub):
    hub.storage.commit(hub.storage.repos["models", REPO], "main", "x", add={"x": hub.storage.put(b"x")})
    newer = hub.storage.repos["models", REPO].branches["main"]
    hub.fail("HEAD", status=503, times=2)
    assert resnet_hub.load(REPO).pretrained_cfg["hf_hub_id"] == f"{REPO}@{newer}"


def test_a_wait_that_the_hub_asks_for_is_not_sat_out_when_the_model_is_cached(cached, hub):
    planned = hub.fail("HEAD", status=429, headers={"Retry-After": "30"}, times=99)
    start = time.monotonic()
    assert_same_weights(cached, resnet_hub.load(REPO))
    assert time.monotonic() - start < 3
    assert planned.met == 1


def test_a_copy_without_the_weights_does_not_hide_what_the_hub_answered(cached, hub):
    for path in weights_of(constants.HF_HUB_CACHE):
        path.unlink()
    hub.fail("HEAD", status=401, times=99)
    with pytest.raises(HubError, match=r"not accept the token.*The cache has .* not its model\.safetensors"):
        resnet_hub.load(REPO)


def test_what_the_hub_says_is_gone_or_gated_is_not_served_from_the_cache(cached, hub, monkeypatch):
    repo = hub.storage.repos["models", REPO]
    repo.tags["v1"] = repo.branches["main"]
    resnet_hub.load(REPO, revision="v1")
    del repo.tags["v1"]
    with pytest.raises(HubError, match="no branch, tag or commit 'v1'"):
        resnet_hub.load(REPO, revision="v1")
    repo.gated = True
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="is gated"):
        resnet_hub.load(REPO)
    hub.storage.delete(repo)
    with pytest.raises(HubError, match="or hides it"):
        resnet_hub.load(REPO)
