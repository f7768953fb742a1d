"""Edits of a card: metadata ends where the Hub ends it, and merging is quick whatever the texts hold."""

import random
import time
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

import resnet_hub
from resnet_hub.cards.edits import with_edits
from resnet_hub.cards.model_card import render_card
from resnet_hub.hub import push_folder, save_folder
from resnet_hub.hub.saving import refresh_card
from tests.cards.test_model_card import facts, report, score
from tests.hub_server import HubServer
from tests.hub_server.fixtures import NAMES, REPO, files_on

pytest_plugins = ["tests.hub_server.fixtures"]

DATA_SETS = {
    "ends in dashes": "photos---",
    "begins with dashes": "---photos",
    "only dashes": "---",
    "dots": "...",
    "ends in dots": "photos...",
    "a dash": "-",
    "begins with a dash": "- photos",
    "a rule on a line of its own": "photos\n---\nlicense: mit",
    "the same with CRLF": "photos\r\n---\r\nlicense: mit",
    "colon": "photos: 2024",
    "hash": "photos #1",
    "quotes": "'photos' \"2024\"",
    "one quote": "photos'",
    "backslash": "photos\\---\\n---",
    "alias": "*photos",
    "tag": "!!python/object:os.system",
    "yes": "yes",
    "number": "1e3",
    "NEL and line separator": "a\x85---\x85b\u2028---\u2028c",
    "unicode": "фото 写真 📷---",
    "1,000 letters": "photo---" * 125,
    "words beyond a line": "photo --- " * 40,
}


def named(dataset: str) -> dict[str, object]:
    return {"dataset": dataset, "dataset_revision": None}


def metadata(card: str) -> dict:
    """As huggingface_hub finds it."""
    head = REGEX_YAML_BLOCK.match(card)
    assert head is not None
    return yaml.safe_load(head[2])


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("name", DATA_SETS.values(), ids=DATA_SETS)
def test_metadata_ends_at_a_line_of_three_dashes_whatever_the_data_set_is_called(name, ends):
    card = render_card(report(**named(name)), facts())
    edited = card.replace("## Limits", "A word of my own.\n\n## Limits").replace("\n", ends)
    fresh = render_card(report(**named(name), test=score(accuracy=0.5)), facts())
    merged = with_edits(fresh, edited=edited, generated=card, source="test")
    assert metadata(merged) == metadata(fresh)
    assert metadata(merged)["model-index"][0]["results"][0]["dataset"]["name"] == " ".join(name.split())
    assert merged.count("A word of my own.") == 1
    assert "50.00 %" in merged


def test_metadata_may_be_empty_and_a_text_may_hold_rules():
    fresh = "---\nlicense: mit\n---\n\nGenerated.\n"
    for edited in ("---\n---\n\nMine.\n\n---\n\nMore.", "---\n\n---\nMine.\n\n---\n\nMore."):
        merged = with_edits(fresh, edited=edited, generated=None, source="test")
        assert merged.split() == ["---", "license:", "mit", "---", "Mine.", "---", "More.", "Generated."]


@pytest.mark.parametrize("name", ["photos---", "...", "'---'\n---\n", "- a: b #c 写真 " * 20])
def test_a_run_on_a_data_set_of_any_name_is_published_and_published_again(
    hub: HubServer, exported, tmp_path: Path, name
):
    model, _ = exported
    told = report(**named(name), class_names=NAMES)
    folder = save_folder(model, tmp_path / "run", class_names=NAMES, report=told)
    first = push_folder(folder, REPO)
    card = tmp_path / "run" / "README.md"
    card.write_text(card.read_text().replace("## Limits", "A word of my own.\n\n## Limits"))
    refresh_card(folder, repo_id=REPO)
    second = push_folder(folder, REPO)
    assert second.commit != first.commit
    published = files_on(hub)["README.md"].decode()
    assert published.count("A word of my own.") == 1
    assert ModelCard(published).data.model_name == "digits"
    assert resnet_hub.load(REPO).pretrained_cfg["label_names"] == tuple(NAMES)


@pytest.mark.parametrize(
    ("above", "below"), [("## Limits", "## Classes"), ("## The model", "## How to use it")]
)
def test_a_section_that_was_moved_is_not_lost(above, below):
    card = render_card(report(), facts())
    section = card[card.index(above) :].split("\n## ")[0].strip()
    edited = card.replace(section, "").replace(below, f"{section}\n\n{below}")
    down = with_edits(card, edited=edited, generated=card, source="test")
    up = with_edits(edited, edited=card, generated=edited, source="test")
    for merged in (down, up):
        assert merged.count(above) == merged.count(below) == 1


def texts_of(kind: str, size: int) -> tuple[str, str]:
    """A generated and an edited text of about so many bytes, of short lines."""
    draw, lines = random.Random(1), size // 2
    if kind in ("one letter", "two letters", "letters"):
        letters = {"one letter": "a", "two letters": "ab"}.get(kind, "abcdefghijklmnopqrstuvwxyz")
        old, new = ("\n".join(draw.choice(letters) for _ in range(lines)) for _ in range(2))
        return old, new
    if kind == "every second line changed":
        old = [f"l{number}" for number in range(lines // 3)]
        return "\n".join(old), "\n".join(f"x{line}" if line[-1] in "13579" else line for line in old)
    if kind == "blank lines":
        return "\n" * size, "\n".join(["", "x"] * (lines // 2))
    if kind == "moved by a line":
        text = "\n".join(["a", ""] * (lines // 2))
        return text, f"b\n{text}\nc"
    if kind == "shuffled":
        old = [f"w{number}" for number in range(lines // 3)]
        return "\n".join(old), "\n".join(draw.sample(old, len(old)))
    assert kind == "a line of its own after each of 300"
    return "a\n" * 300, "\n".join(line for number in range(300) for line in ("a", str(number)))


KINDS = (
    *("one letter", "two letters", "letters", "every second line changed", "blank lines"),
    *("moved by a line", "shuffled", "a line of its own after each of 300"),
)


def seconds_to_merge(kind: str, size: int) -> float:
    old, new = texts_of(kind, size)
    begin = time.process_time()
    merged = with_edits(old, edited=new, generated=old, source="test")
    taken = time.process_time() - begin
    assert set(new.split()) <= set(merged.split())  # nothing that a person wrote is lost
    return taken


@pytest.mark.parametrize("kind", KINDS)
def test_short_lines_are_merged_in_a_time_that_grows_no_faster_than_they_do(kind):
    small, large = seconds_to_merge(kind, 32_000), seconds_to_merge(kind, 256_000)
    assert small < 5
    assert large < 5 + 20 * small  # eight times the text; a quadratic merge takes 64 times as long


def test_a_card_with_thousands_of_lines_written_into_it_is_still_merged_in_place():
    card = render_card(report(), facts())
    fresh = render_card(report(test=score(accuracy=0.5)), facts())
    mine = "\n".join(random.Random(2).choice(["- a", "- b", ""]) for _ in range(12_000)).strip()
    edited = card.replace("## Limits", f"## Notes\n\n{mine}\n\n## Limits").replace(
        "It answers", "Mind: it answers"
    )
    merged = with_edits(fresh, edited=edited, generated=card, source="test")
    assert merged == fresh.replace("## Limits", f"## Notes\n\n{mine}\n\n## Limits").replace(
        "It answers", "Mind: it answers"
    )
