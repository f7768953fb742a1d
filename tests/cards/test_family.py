"""The cards in `model_cards/` say what the tables say today; the Hub reads them, and their code runs."""

import re
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCard, constants
from PIL import Image
from safetensors.torch import save_file

from resnet_hub.cards.family import variant_card, variants_with_cards
from resnet_hub.cli.main import main
from resnet_hub.models.my_resnet import TIMM_LIKE
from resnet_hub.models.packaged_weights import PACKAGED, record_of
from resnet_hub.models.published_weights import WEIGHTS

CARDS = Path(__file__).parents[2] / "model_cards"


def test_every_variant_with_weights_has_a_card_and_no_other_is_there():
    assert {path.stem for path in CARDS.glob("my_*.md")} == set(variants_with_cards())


@pytest.mark.parametrize("name", variants_with_cards())
def test_a_card_is_what_the_tables_give(name):
    stored = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert stored == variant_card(name), f"render it again: resnet-hub card {name} > model_cards/{name}.md"


@pytest.mark.parametrize("name", [name for name in variants_with_cards() if name in TIMM_LIKE])
def test_the_hub_reads_licence_source_and_accuracy_from_a_card(name):
    data = ModelCard.load(CARDS / f"{name}.md").data
    weights = WEIGHTS[data.base_model.removeprefix("timm/")]
    assert data.license == weights.license
    assert data.model_name == f"my_{weights.name}"
    assert [result.metric_value for result in data.eval_results] == [weights.top1, weights.top5]


@pytest.mark.parametrize("weights", PACKAGED.values(), ids=lambda weights: weights.name)
def test_the_card_of_weights_in_the_package_says_how_they_were_made_and_its_code_runs(weights):
    name = f"my_{weights.architecture}"
    data = ModelCard.load(CARDS / f"{name}.md").data
    assert (data.license, data.model_name) == ("apache-2.0", f"my_{weights.name}")
    card, record = variant_card(name), record_of(weights)
    assert record["made"]["sha256"] in card
    for images, ways in record["measured"]["accuracy_percent"].items():
        row = re.search(rf"^\| {images} \|.*$", card, re.MULTILINE)
        assert row is not None
        assert row[0].count("[") == len(ways) == 3
        assert f"[{min(ways['scratch']):.2f}, {max(ways['scratch']):.2f}]" in row[0]
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    names: dict = {}
    exec(compile(code[1], "card", "exec"), names)
    assert names["model"].num_classes == 10


def test_the_code_of_a_card_runs(tmp_path, monkeypatch, capsys):
    card = variant_card("my_resnet18")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))  # as if the weights had been downloaded
    repository = tmp_path / "models--timm--resnet18.a1_in1k"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(timm.create_model("resnet18").state_dict(), snapshot / "model.safetensors")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    Image.new("RGB", (320, 300), "teal").save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    exec(compile(code[1], "card", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_command_prints_a_card_and_refuses_what_has_none(capsys):
    assert main(["card", "my_resnet50"]) == 0
    assert capsys.readouterr().out == (CARDS / "my_resnet50.md").read_text(encoding="utf-8")
    for arguments, message in (
        (["my_resnet32"], "no published weights"),
        (
            ["my_resnext50"],
            "'my_resnext50' is no folder and no variant of the family; did you mean 'my_resnet50'",
        ),
        (["my_resnet50", "--write"], "for folders"),
    ):
        assert main(["card", *arguments]) == 2
        assert message in capsys.readouterr().err
