"""Cards: every number from the report, nothing of this machine, foreign text shown as text, and code that
runs."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from PIL import Image

import resnet_hub
from resnet_hub.cards.edits import with_edits
from resnet_hub.cards.model_card import (
    CardFacts,
    eval_results_file,
    license_fields,
    public_report,
    render_card,
    text,
)
from resnet_hub.hub import current_card, refresh_card, save_folder
from resnet_hub.models.my_resnet import register_variant
from resnet_hub.models.variant import Variant
from resnet_hub.results import ClassScore, ExportedWeights, RunReport, Score, SplitRecord, TrainRecord

pytest_plugins = ["tests.hub_server.fixtures"]

NAMES = ("abyssinian", "beagle", "pug")
HOSTILE = (
    "a|b",
    "---\nlicense: mit\n---",
    "<script>alert(1)</script>",
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "`code` and *stars* and __bold__",
    "line\nbreak\r\n# heading",
    "{{ 7 * 7 }}{% raw %}",
    "https://evil.example www.evil.example @someone",
    "\u202egnp.exe",
    "x" * 5000,
    "日本語 é ñ",
)


def score(**changes: object) -> Score:
    rows = tuple(ClassScore(name=n, precision=0.9, recall=0.8, f1=0.847, num_images=50) for n in NAMES)
    values = {
        "accuracy": 0.9533,
        "accuracy_interval_95": (0.9165, 0.9743),
        "top5_accuracy": 1.0,
        "macro_f1": 0.9501,
        "loss": 0.1234,
        "num_images": 150,
        "per_class": rows,
    }
    return Score(**{**values, **changes})  # type: ignore[arg-type]


def report(**changes: object) -> RunReport:
    values = {
        "model": "my_resnet50.a1_in1k",
        "base_model": "timm/resnet50.a1_in1k",
        "base_license": "apache-2.0",
        "dataset": "timm/oxford-iiit-pet",
        "dataset_revision": "a" * 40,
        "num_classes": 3,
        "class_names": NAMES,
        "multi_label": False,
        "image_size": 224,
        "splits": {"train": SplitRecord(num_images=3680, how="as published")},
        "validation": score(accuracy=0.94),
        "test": score(),
        "train": TrainRecord(epochs=8, steps=920, seconds=321.5, images_per_second=91.6),
        "seed": 7,
        "resumed_from_step": None,
        "recipe": {"optim": {"learning_rate": 0.001}, "output_dir": "/home/alice/runs/1"},
        "environment": {"torch": "2.15.0", "hostname": "alices-laptop", "device": "cpu"},
    }
    return RunReport(**{**values, **changes})  # type: ignore[arg-type]


def facts(**changes: object) -> CardFacts:
    values = {
        "repo_id": "alice/pets",
        "variant": "my_resnet50",
        "architecture": "resnet50",
        "num_parameters": 23_514_179,
        "class_names": NAMES,
        "input_size": (3, 288, 288),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "license_id": "apache-2.0",
        "base_model": "timm/resnet50.a1_in1k",
    }
    return CardFacts(**{**values, **changes})  # type: ignore[arg-type]


def metadata(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def code_blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_metadata_is_what_the_hub_reads():
    data = ModelCard(render_card(report(), facts())).data
    assert data.license == "apache-2.0"
    assert data.base_model == "timm/resnet50.a1_in1k"
    assert data.base_model_relation == "finetune"
    assert data.datasets == ["timm/oxford-iiit-pet"]
    assert (data.library_name, data.pipeline_tag) == ("timm", "image-classification")
    assert data.model_name == "pets"
    found = {result.metric_type: result.metric_value for result in data.eval_results}
    assert found == {"accuracy": 0.9533, "f1": 0.9501}
    assert {result.dataset_split for result in data.eval_results} == {"test"}
    assert {result.dataset_revision for result in data.eval_results} == {"a" * 40}


def test_the_text_states_the_scores_with_interval_and_number_of_images():
    card = render_card(report(), facts())
    assert "| test | 150 | 95.33 % | 91.65 % to 97.43 % | 100.00 % | 0.9501 | 0.1234 |" in card
    assert "| validation | 150 | 94.00 % |" in card
    assert "| beagle | 50 | 90.00 % | 80.00 % | 0.8470 |" in card
    assert "| Images per second | 91.6 |" in card
    assert "| optim.learning_rate | 0.001 |" in card


def test_the_card_names_the_exported_weights_and_what_a_linear_probe_did_not_use_is_left_out():
    recipe = {"learning_rate": 0.001, "weight_decay": 0.05, "augmentation": "light", "seed": 7}
    probe = ExportedWeights(epoch=0, metric="accuracy", linear_probe_score=0.9)
    quick = TrainRecord(epochs=0, steps=0, seconds=1.5, images_per_second=99.0)
    card = render_card(report(recipe=recipe, exported=probe, train=quick), facts())
    assert "| Exported weights | linear probe |" in card
    assert "| seed | 7 |" in card
    assert not [word for word in (*recipe, "Epochs", "Steps") if f"| {word} |" in card and word != "seed"]
    beaten = ExportedWeights(epoch=0, metric="accuracy", linear_probe_score=1.0, best_epoch_score=0.89)
    card = render_card(report(recipe=recipe, exported=beaten), facts())
    assert "Training did not beat it: validation accuracy is 1.0000 before training and 0.8900" in card
    assert "| learning_rate | 0.001 |" in card
    best = ExportedWeights(epoch=3, metric="accuracy", linear_probe_score=0.9, best_epoch_score=0.95)
    assert "| Exported weights | epoch 3 of 8 |" in render_card(report(exported=best), facts())


def test_a_change_of_any_number_changes_the_card():
    usual = render_card(report(), facts())
    for changed in (
        report(test=score(accuracy=0.5)),
        report(test=score(num_images=151)),
        report(validation=score(loss=9.0)),
        report(seed=8),
        report(train=TrainRecord(epochs=9, steps=920, seconds=321.5, images_per_second=91.6)),
    ):
        assert render_card(changed, facts()) != usual


def test_without_a_test_split_the_validation_score_is_given_as_such():
    data = ModelCard(render_card(report(test=None), facts())).data
    assert {result.dataset_split for result in data.eval_results} == {"validation"}


def test_without_any_score_none_is_claimed():
    card = render_card(report(test=None, validation=None), facts())
    assert "no score of this model is known" in card
    assert "## Results" not in card
    assert "model-index" not in metadata(card)


def test_without_a_report_none_is_claimed_either():
    card = render_card(None, facts())
    assert "no score of this model is stated" in card
    assert not {"model-index", "metrics", "datasets"} & metadata(card).keys()


def test_a_score_on_a_hub_data_set_is_written_as_the_hubs_evaluation_file():
    path, entries = eval_results_file(report())  # type: ignore[misc]
    (entry,) = parse_eval_result_entries(entries)
    assert path == ".eval_results/timm-oxford-iiit-pet.yaml"
    assert (entry.dataset_id, entry.value, entry.dataset_revision) == (
        "timm/oxford-iiit-pet",
        0.9533,
        "a" * 40,
    )
    assert "150 images" in entry.notes


@pytest.mark.parametrize("dataset", ["digits", "/home/alice/cats", "data/cats", "C:\\cats"])
def test_a_local_data_set_is_not_linked_to_the_hub(dataset):
    local = report(dataset=dataset, dataset_revision=None)
    card = render_card(local, facts())
    assert "datasets" not in metadata(card)
    assert eval_results_file(local) is None
    assert "/home/alice" not in card


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("apache-2.0", {"license": "apache-2.0"}),
        ("CC-BY-NC-4.0", {"license": "cc-by-nc-4.0"}),
        ("My Own\nlicense: mit", {"license": "other", "license_name": "my-own-license-mit"}),
        (None, {}),
        ("", {}),
    ],
)
def test_the_licence_follows_the_base_weights(license, expected):
    assert license_fields(license) == expected
    data = metadata(render_card(report(), facts(license_id=license)))
    assert {key: data[key] for key in ("license", "license_name") if key in data} == expected


def test_weights_that_forbid_commerce_say_so_in_the_text():
    assert "may not be used commercially" in render_card(report(), facts(license_id="cc-by-nc-4.0"))
    assert "No license is stated" in render_card(report(), facts(license_id=None))


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_foreign_names_change_neither_metadata_nor_markup(name):
    usual, names = render_card(report(), facts()), (name, "beagle", "pug")
    rows = tuple(replace(row, name=given) for row, given in zip(score().per_class, names, strict=True))
    hostile = report(
        dataset=name,
        dataset_revision=None,
        class_names=names,
        test=score(per_class=rows),
        splits={name: SplitRecord(num_images=1, how=name)},
        recipe={name: name},
        environment={"note": name},
    )
    card = render_card(hostile, facts(class_names=names, interpolation=name))
    assert metadata(card).keys() <= metadata(usual).keys()
    assert metadata(card)["license"] == "apache-2.0"
    body = card.split("---\n", 2)[2]
    assert "<script" not in body
    assert "](http://evil" not in body
    assert not re.search(r"(?<!&#58;)//evil", body)
    assert re.findall(r"^#+ .*$", body, re.MULTILINE) == re.findall(r"^#+ .*$", usual, re.MULTILINE)
    rows_of_table = [line for line in body.splitlines() if line.startswith("|") and line.count("0.8470")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 6 for row in rows_of_table)
    assert len(rows_of_table) == 3


def test_escaped_text_is_one_short_line_that_still_reads_as_it_was():
    assert text("american_bulldog (small)") == "american_bulldog (small)"
    assert text("a|b\nc") == "a\\|b c"
    assert len(text("x" * 500)) == 120
    assert (text("1. one"), text("- a"), text("0.5"), text("-1")) == ("1\\. one", "\\- a", "0.5", "-1")
    assert text("<b>&") == "&lt;b&gt;&amp;"


def test_nothing_of_the_machine_or_the_person_is_published():
    secret = "hf_" + "aB3" * 12
    told = report(
        dataset="/home/alice/cats",
        dataset_revision=None,
        base_model="/home/alice/weights/resnet50.safetensors",
        recipe={"train_dir": "/home/alice/cats", "cache": "~/cache/x", "note": f"used {secret}", "lr": 0.1},
        environment={"hostname": "alices-laptop", "user": "alice", "command": f"HF_TOKEN={secret}", "cpu": 8},
    )
    public = repr(public_report(told)) + render_card(told, facts(base_model=None))
    for private in ("/home", "alices-laptop", secret, "HF_TOKEN", "train_dir"):
        assert private not in public
    assert "'lr': 0.1" in public
    assert public_report(told).dataset == "cats"


def test_many_classes_make_a_card_that_can_still_be_read():
    names = tuple(f"class {number}" for number in range(1000))
    rows = tuple(
        ClassScore(name=n, precision=1.0, recall=1.0, f1=i / 1000, num_images=1) for i, n in enumerate(names)
    )
    card = render_card(report(class_names=names, test=score(per_class=rows)), facts(class_names=names))
    assert "The 60 classes with the lowest F1 of 1000" in card
    assert "class 999 " not in card
    assert len(card) < 20_000


def test_a_multi_label_card_uses_sigmoid_and_states_the_mean_average_precision():
    many = score(mean_average_precision=0.8123)
    card = render_card(report(multi_label=True, test=many, validation=many), facts())
    assert "81.23 %" in card
    assert ".sigmoid()" in card
    assert 'function_to_apply="sigmoid"' in card


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model("my_resnet18", num_classes=3).eval()
    model.pretrained_cfg |= {"input_size": (3, 64, 64), "test_input_size": (3, 64, 64)}
    figure = tmp_path / "confusion.png"
    Image.new("RGB", (8, 8)).save(figure)
    return save_folder(
        model,
        tmp_path / "export",
        class_names=NAMES,
        report=report(model="my_resnet18"),
        figures={"Confusion matrix": figure},
    )


def test_a_folder_with_a_report_has_figures_report_and_evaluation(exported):
    card = (exported / "README.md").read_text()
    assert "![Confusion matrix](figures/01-Confusion-matrix.png)" in card
    assert (exported / "figures/01-Confusion-matrix.png").is_file()
    assert RunReport.load(exported / "report.json").test == score()
    assert (
        yaml.safe_load((exported / ".eval_results/timm-oxford-iiit-pet.yaml").read_text())[0]["value"]
        == 0.9533
    )
    assert "/home/alice" not in (exported / "report.json").read_text()


@pytest.mark.slow
def test_the_code_of_the_card_runs_where_the_folder_is(exported, run_python):
    Image.new("RGB", (80, 70), (200, 10, 30)).save(exported / "image.jpg")
    blocks = code_blocks((exported / "README.md").read_text())
    assert len(blocks) == 3
    done = run_python("import os\nos.chdir('export')\n" + "\n".join(blocks))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("beagle") == 3


TINY = Variant(block="basic", depths=(1, 1), widths=(8, 16), stem="conv3", stem_width=8)


@pytest.mark.slow
def test_the_code_of_a_card_of_ones_own_grey_variant_runs_where_nobody_has_registered_it(
    tmp_path, run_python
):
    register_variant("tiny_net", TINY)
    model = timm.create_model("tiny_net", num_classes=3, in_chans=1)
    folder = save_folder(model, tmp_path / "export", class_names=NAMES)
    Image.new("RGB", (80, 70), (200, 10, 30)).save(folder / "image.jpg")
    best = resnet_hub.classify(resnet_hub.load(folder), folder / "image.jpg")[0]
    for block in code_blocks((folder / "README.md").read_text()):
        done = run_python("import os\nos.chdir('export')\n" + block)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{best.probability:.4f} {best.label}\n")


def usage(variant: str, architecture: str, **changes: object) -> str:
    card = render_card(report(), facts(variant=variant, architecture=architecture, **changes))
    return card[card.index("## How to use it") : card.index("## The model")]


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_a_network_that_timm_has_needs_no_other_package(name):
    for variant in (name, "my_resnet50"):
        timms, ours, transformers = code_blocks(usage(variant, name))
        assert "resnet_hub" not in timms + transformers
        assert "register" not in ours


def test_a_network_that_only_this_package_has_is_registered_by_its_import():
    for block in code_blocks(usage("my_resnet20", "my_resnet20")):
        assert block.startswith("import resnet_hub")
        assert "register_variant" not in block


@pytest.mark.parametrize("name", ["tiny_net", "my_tiny"])
def test_a_variant_of_ones_own_is_registered_by_the_code_and_not_by_an_import(name):
    register_variant(name, TINY)
    text_of_usage = usage(name, name)
    assert "# registers" not in text_of_usage
    for block in code_blocks(text_of_usage):
        call = re.search(r"resnet_hub\.register_variant\(\n.*?\n\)", block, re.DOTALL)
        assert call is not None
        exec(compile(call[0], "card", "exec"), {"resnet_hub": resnet_hub})  # refused if it were another


@pytest.mark.parametrize("name", ["my_elsewhere", "elsewhere"])
def test_of_a_network_that_somebody_else_registers_the_card_says_so(name):
    text_of_usage = usage(name, name)
    assert f"`{name}` is a network that neither timm nor resnet_hub brings along" in text_of_usage
    for block in code_blocks(text_of_usage):
        assert block.startswith(f"# here import the module that registers {name} in timm")


def test_a_grey_image_stays_grey():
    gray = usage("my_resnet20", "my_resnet20", input_size=(1, 32, 32))
    assert gray.count('.convert("L")') == 2
    assert "RGB" not in gray
    assert "pipeline(" not in gray
    assert '.convert("RGB")' in usage("my_resnet20", "my_resnet20")


def test_a_name_of_a_network_from_outside_is_no_markup():
    card = render_card(report(), facts(variant="a`b\n# c", architecture="x\n```\n<script>"))
    assert "<script>" not in card
    assert "\n# c" not in card


def test_rendering_again_changes_nothing(exported):
    before = (exported / "README.md").read_text()
    refresh_card(exported, repo_id=None)
    assert (exported / "README.md").read_text() == before


EDITS = [
    ("## Limits", "A word of my own.\n\n## Limits"),
    ("It answers with one of its", "Mind: it answers with one of its"),
    ("## How to use it", "## Using it at home"),
]


@pytest.mark.parametrize(("old", "new"), EDITS)
def test_an_edit_survives_new_numbers_and_the_numbers_are_new(old, new):
    first = render_card(report(), facts())
    edited = first.replace(old, new)
    assert edited != first
    fresh = render_card(report(test=score(accuracy=0.5)), facts())
    merged = with_edits(fresh, edited=edited, generated=first, source="test")
    assert merged.count(new.splitlines()[0]) == 1
    assert "50.00 %" in merged
    assert "95.33 %" not in merged.replace("| validation", "")


def test_a_number_typed_by_hand_into_a_table_does_not_survive():
    first = render_card(report(), facts())
    edited = first.replace("| test | 150 | 95.33 %", "| test | 150 | 99.99 %")
    assert edited != first
    assert with_edits(first, edited=edited, generated=first, source="test") == with_edits(
        first, edited=first, generated=first, source="test"
    )


def test_a_paragraph_that_was_taken_out_stays_out():
    first = render_card(report(), facts())
    edited = re.sub(r"\nThe interval is Wilson's.*\n|\nChoices were made.*\n", "\n", first)
    assert edited != first
    fresh = render_card(report(seed=8), facts())
    assert "Wilson" not in with_edits(fresh, edited=edited, generated=first, source="test")


def test_metadata_set_by_hand_survives_and_measured_metadata_does_not():
    first = render_card(report(), facts())
    edited = first.replace("license: apache-2.0", "license: mit\nwidget:\n- src: cat.jpg").replace(
        "- resnet_hub", "- resnet_hub\n- pets"
    )
    edited = edited.replace("value: 0.9533", "value: 1.0")
    data = metadata(with_edits(first, edited=edited, generated=first, source="test"))
    assert data["license"] == "mit"
    assert data["widget"] == [{"src": "cat.jpg"}]
    assert data["tags"][-1] == "pets"
    assert "value: 1.0" not in yaml.safe_dump(data["model-index"])


def test_the_cards_verb_prints_what_the_folder_says(exported):
    assert "hf-hub:alice/pets" in current_card(exported, repo_id="alice/pets")
