"""Who gets the token is said, and neither it nor the key of a signed address is in a log."""

import logging
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from resnet_hub.downloads.access import note_recipient, redact
from resnet_hub.errors import HubError
from resnet_hub.hub import load
from tests.hub_server import HubServer
from tests.hub_server.fixtures import REPO

pytest_plugins = ["tests.hub_server.fixtures"]

SIGNED = [
    "https://store/x?X-Amz-Algorithm=AWS4&X-Amz-Signature=KEY&X-Amz-Credential=KEY",
    "https://cdn/x?Expires=1&Policy=KEY&Signature=KEY&Key-Pair-Id=KEY",
    "https://cdn/x?a=1&amp;Signature=KEY",
    "https://goog/x?X-Goog-Signature=KEY",
    "https://blob/x?sv=2&sig=KEY",
    "https://xet/x?X-Xet-Session-Id=KEY",
    "'error' thrown while requesting GET 'https://store/x?access_token=KEY'",
    "https://store/x?x-amz-security-token=KEY",
]


@pytest.fixture(autouse=True)
def nobody_was_told() -> Iterator[None]:
    note_recipient.cache_clear()
    yield
    note_recipient.cache_clear()


@pytest.mark.parametrize("text", SIGNED)
def test_the_key_of_a_signed_address_is_made_unreadable(text):
    assert "KEY" not in redact(text)
    assert "https://" in redact(text)


@pytest.mark.parametrize("module", ["utils._http", "file_download", "lfs", "hf_api"])
def test_a_warning_of_huggingface_hub_shows_no_keys(module, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form")
    logger = logging.getLogger(f"huggingface_hub.{module}")
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    for text in SIGNED:
        logger.warning("Error while downloading from %s: %s", text, "a-token-of-another-form")
        logger.warning(f"HTTP Error 503 thrown while requesting GET {text} 100%")
    assert len(caplog.records) == 2 * len(SIGNED)
    assert "KEY" not in caplog.text
    assert "another-form" not in caplog.text


def test_a_download_that_breaks_off_logs_no_key_of_its_signed_address(
    hub: HubServer, published, caplog, monkeypatch, capfd
):
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    hub.fail("^GET /lfs/", times=2, cut_at=0.5)
    load(REPO)
    printed = caplog.text + "".join(capfd.readouterr())
    assert "download" in printed
    assert "?***" in printed
    assert "X-Amz-Signature=" not in printed


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://hf-mirror.example", "hf-mirror.example"),
        ("https://huggingface.co.evil.example/x", "huggingface.co.evil.example"),
        ("https://evil-huggingface.co", "evil-huggingface.co"),
        ("https://huggingface.co@evil.example", "evil.example"),
        ("http://10.0.0.7:8080", "10.0.0.7"),
        ("https://localhost.evil.example", "localhost.evil.example"),
    ],
)
def test_another_host_that_gets_the_token_is_named_once(endpoint, host, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 20)
    note_recipient(endpoint)
    note_recipient(endpoint)
    (record,) = caplog.records
    assert f"sent to {host}." in record.getMessage()


@pytest.mark.parametrize(
    "endpoint",
    ["https://huggingface.co", "https://hub-ci.huggingface.co", "https://hf.co", "http://127.0.0.1:5000",
     "http://localhost:5000", "http://[::1]:5000"],
)  # fmt: skip
def test_hugging_face_and_this_machine_get_it_without_a_word(endpoint, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 20)
    note_recipient(endpoint)
    assert not caplog.records


def test_without_a_token_nothing_is_told(caplog, no_hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    note_recipient("https://hf-mirror.example")
    assert not caplog.records


def test_a_load_from_a_mirror_tells_who_gets_the_token(caplog, no_hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "a" * 20)
    monkeypatch.setattr(constants, "ENDPOINT", "http://mirror.invalid")
    with pytest.raises(HubError):
        load("owner/name")
    assert "token is sent to mirror.invalid" in caplog.text
