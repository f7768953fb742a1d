"""The page of a run in a real browser: whatever was trained on, it shows, sorts, and fetches nothing."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from resnet_hub.finetuning.report.figures import _confusion_colors
from resnet_hub.finetuning.report.html import as_webp
from resnet_hub.finetuning.report.metrics import confusion_counts, score_predictions
from resnet_hub.finetuning.report.page import Page, Part, page_fragment, render_page
from resnet_hub.finetuning.report.predictions import Predictions, read_predictions, write_predictions
from resnet_hub.results import ExportedWeights, SplitRecord, TrainRecord, probability_text

from ..image_files import picture

pytest_plugins = ["tests.browser"]

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror="document.title=\'taken\'">',
    "{{ 7 * 7 }} $x$ </svg>",
    "tab\tand\x0bcontrol\x7f",
    "東京 🐱",
)
EVENTS = [
    {"event": "train", "step": 10, "epoch": 0.5, "loss": 1.2, "learning_rate": 0.1},
    {"event": "train", "step": 20, "epoch": 1.0, "loss": 0.8, "learning_rate": 0.05},
    {"event": "validation", "step": 20, "epoch": 1.0, "loss": 0.9, "accuracy": 0.6, "macro_f1": 0.6},
]


def page_of(
    class_names: tuple[str, ...],
    folder: Path,
    *,
    multi_label: bool = False,
    num_images: int = 60,
    **parts: object,
) -> Page:
    """The page of a model that is right more often than not, with a picture of every image."""
    generator = np.random.default_rng(0)
    num_classes = len(class_names)
    if multi_label:
        labels = (generator.random((num_images, num_classes)) < 0.4).astype(np.float32)
        logits = torch.from_numpy(4 * labels - 2 + generator.normal(0, 2, labels.shape)).float()
        shares = logits.sigmoid()
    else:
        labels = generator.integers(0, num_classes, num_images)
        noise = generator.normal(0, 1, (num_images, num_classes))
        logits = torch.from_numpy(noise + 3 * np.eye(num_classes)[labels]).float()
        shares = logits.softmax(dim=1)
    rows = np.arange(100, 100 + num_images)
    files = [folder / f"{number}.webp" for number in range(10)]
    for number, file in enumerate(files):
        file.write_bytes(as_webp(picture(seed=number)))
    values = {
        "model": "my_resnet18",
        "dataset": "shapes",
        "class_names": class_names,
        "multi_label": multi_label,
        "scores": {"test": score_predictions(logits, torch.from_numpy(labels), class_names)},
        "splits": {"test": SplitRecord(num_images=num_images, how="test of the data set")},
        "predictions": Predictions(split="test", rows=rows, labels=labels, probabilities=shares.numpy()),
        "pictures": {row: files[row % 10] for row in rows.tolist()},
        "events": EVENTS,
        "train": TrainRecord(
            epochs=1,
            steps=20,
            seconds=3.0,
            images_per_second=99.0,
            station_seconds={"data": 1.0, "forward": 0.5, "backward": 1.0, "optimizer": 0.1},
        ),
    }
    return Page(**(values | parts))


def show(browser, page: Page, folder: Path, **size: int) -> Path:
    """Open a page and see that nothing is wrong with it, whatever is on it."""
    file = folder / "report.html"
    file.write_text(render_page(page), encoding="utf-8")
    browser.open(file.as_uri(), **size)
    browser.run("for (const fold of document.querySelectorAll('details')) fold.open = true")
    assert browser.messages() == []
    assert browser.requests() == [file.as_uri()]
    assert [found for found in browser.pictures() if not found["width"]] == []
    return file


def column(browser, number: int) -> list[str]:
    rows = "[...document.querySelector('#class-table').tBodies[0].rows]"
    return browser.run(f"return {rows}.map(row => row.cells[{number}].innerText)")


def head(browser, title: str):
    heads = browser.driver.find_elements(By.CSS_SELECTOR, "#class-table thead button")
    return next(found for found in heads if found.text.startswith(title))


def test_a_click_on_a_head_sorts_the_classes_and_another_turns_the_order_round(browser, tmp_path: Path):
    show(browser, page_of(("ant", "bee", "cat 10", "cat 9"), tmp_path), tmp_path)
    assert column(browser, 0) == ["ant", "bee", "cat 10", "cat 9"]
    head(browser, "recall").click()
    recalls = [float(cell.removesuffix(" %")) for cell in column(browser, 3)]
    assert recalls == sorted(recalls, reverse=True)
    assert len(set(recalls)) > 1
    head(browser, "recall").click()
    assert [float(cell.removesuffix(" %")) for cell in column(browser, 3)] == sorted(recalls)
    sorted_by = "return document.querySelector('#class-table th[aria-sort]').innerText"
    assert browser.run(sorted_by).startswith("recall")
    head(browser, "class").click()
    assert column(browser, 0) == ["ant", "bee", "cat 9", "cat 10"]


def test_names_from_outside_are_shown_as_text(browser, tmp_path: Path):
    names = HOSTILE
    settings = {"dataset_name": HOSTILE[0], "learning_rate": 0.1}
    page = page_of(
        names, tmp_path, dataset=HOSTILE[1], settings=settings, asked={"dataset_name": HOSTILE[1]},
        environment={"system": HOSTILE[0]}, commands={"typed": f"finetune.py {HOSTILE[0]}"},
    )  # fmt: skip
    show(browser, page, tmp_path)
    assert browser.run("return document.title") == f"my_resnet18 on {HOSTILE[1]}"
    text = browser.text()
    for name in (HOSTILE[0], HOSTILE[1], "{{ 7 * 7 }} $x$ </svg>", "東京 🐱"):
        assert name in text
    assert browser.run("return document.scripts.length") == 1


def test_markup_that_came_in_all_the_same_would_run_nothing(browser, tmp_path: Path):
    file = tmp_path / "tampered.html"
    bad = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    file.write_text(render_page(page_of(("a", "b"), tmp_path)).replace("</h1>", f"</h1>{bad}"))
    browser.open(file.as_uri())
    assert browser.run("return document.title") == "my_resnet18 on shapes"
    refused = [message for message in browser.messages() if "Content Security Policy" in message]
    assert len(refused) == 3  # the script, the picture, and the script of its failure


@pytest.mark.parametrize("num_classes", [2, 10, 40])
def test_on_a_phone_nothing_is_wider_than_the_screen_and_all_text_can_be_read(
    browser, tmp_path: Path, num_classes: int
):
    long = ("a name without any space " * 3).replace(" ", "_")
    names = (long, *(f"class {number}" for number in range(1, num_classes)))
    page = page_of(names, tmp_path, dataset=long, environment={"machine": {long: long}}, num_images=400)
    show(browser, page, tmp_path, width=390, height=844)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    tiles = browser.run("return document.querySelector('.tiles').getBoundingClientRect().bottom + scrollY")
    assert tiles < 844
    first = "return document.querySelector('#class-table tbody th').getBoundingClientRect().width"
    assert browser.run(first) < 200
    # A chart's text is as large as its chart is drawn; elsewhere the font's own size counts.
    sizes = browser.run(
        "const size = e => parseFloat(getComputedStyle(e).fontSize);"
        "const scale = e => e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1;"
        "return [...document.querySelectorAll('p, td, th, dt, dd span, figcaption, svg.chart text')]"
        ".map(e => size(e) * scale(e))"
    )
    assert min(sizes) >= 8.9


def test_charts_have_one_size_and_tables_that_scroll_show_it(browser, tmp_path: Path):
    show(browser, page_of(("ant", "bee"), tmp_path), tmp_path, width=1360, height=900)
    sizes = browser.run(
        "return [...document.querySelectorAll('.charts svg')].map(c => c.getBoundingClientRect())"
        ".map(r => `${Math.round(r.width)} x ${Math.round(r.height)}`)"
    )
    assert len(sizes) == 5
    assert len(set(sizes)) == 1
    assert "gradient" in browser.run("return getComputedStyle(document.querySelector('.scroll')).background")


# Texts of less than 4.5 to 1 contrast with what is behind them (WCAG 2.2, level AA).
FAINT = """
const numbers = color => (color.match(/[\\d.]+/g) || []).map(Number);
const linear = v => v <= 10.0 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
const behind = e => {
  const color = numbers(getComputedStyle(e).backgroundColor);
  return color.length === 3 || color[3] === 1 ? color : behind(e.parentElement);
};
return [...document.querySelectorAll('body *:not(script, style, title)')].filter(e => {
  if (![...e.childNodes].some(node => node.nodeType === 3 && node.data.trim())) return false;
  const style = getComputedStyle(e);
  const ink = light(numbers(e.ownerSVGElement ? style.fill : style.color));
  const paper = light(behind(e.ownerSVGElement ? e.ownerSVGElement.parentElement : e));
  return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5;
}).map(e => e.outerHTML);
"""


@pytest.fixture(params=["light", "dark"])
def scheme(browser, request: pytest.FixtureRequest) -> Iterator[str]:
    """The browser prefers this color scheme during a test."""
    features = [{"name": "prefers-color-scheme", "value": request.param}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    yield request.param
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_all_text_has_enough_contrast_and_charts_take_the_colors_of_the_page(browser, tmp_path, scheme: str):
    exported = ExportedWeights(epoch=0, metric="accuracy", linear_probe_score=1.0, best_epoch_score=0.6)
    show(browser, page_of(("ant", "bee", "cat"), tmp_path, exported=exported), tmp_path)
    ink, paper, text = browser.run(
        "const style = getComputedStyle(document.body);"
        "const text = getComputedStyle(document.querySelector('svg.chart text'));"
        "return [style.color, style.backgroundColor, text.fill]"
    )
    assert text == ink
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")
    assert browser.run(FAINT) == []


def test_charts_have_names_and_folds_open_by_keyboard(browser, tmp_path: Path):
    settings = {"learning_rate": 0.1}
    file = tmp_path / "report.html"
    file.write_text(render_page(page_of(("ant", "bee"), tmp_path, settings=settings)), encoding="utf-8")
    browser.open(file.as_uri())
    names = browser.run(
        "return [...document.querySelectorAll('svg.chart')]"
        ".map(c => [c.role, c.ariaLabel, c.querySelector('title').textContent])"
    )
    assert len(names) == 6
    assert all(role == "img" and label == title and len(label) > 3 for role, label, title in names)
    fold = browser.driver.find_element(By.XPATH, "//summary[.='All options']")
    assert "learning_rate" not in browser.text()
    fold.send_keys(Keys.ENTER)
    assert "learning_rate" in browser.text()


def test_the_first_screen_has_the_scores_and_the_size_of_everything(browser, tmp_path: Path):
    exported = ExportedWeights(epoch=1, metric="accuracy", linear_probe_score=0.5, best_epoch_score=0.6)
    page = page_of(("ant", "bee"), tmp_path, exported=exported, num_parameters=11_200_000, image_size=224)
    show(browser, page, tmp_path)
    bottoms = browser.run(
        "return [...document.querySelectorAll('.tile')].map(t => t.getBoundingClientRect().bottom)"
    )
    assert max(bottoms) < 900
    tiles = browser.run("return document.querySelector('.tiles').innerText")
    assert page.scores["test"].macro_f1 == pytest.approx(
        float(tiles.split("Macro F1, test")[1].split()[0]), abs=1e-4
    )
    for words in (
        "95 % interval",
        "exported: epoch 1",
        "11.2 M parameters, 224 px",
        "44.8\u00a0MB",
        "60\u00a0test",
    ):
        assert words in tiles
    assert "exported: epoch 1" in browser.run("return document.querySelector('svg.chart').textContent")


def test_a_training_that_did_not_beat_the_linear_probe_is_said_with_what_to_try(browser, tmp_path: Path):
    exported = ExportedWeights(epoch=0, metric="accuracy", linear_probe_score=1.0, best_epoch_score=0.6)
    events = [{**EVENTS[2], "step": 0, "epoch": 0.0}, *EVENTS]
    show(browser, page_of(("ant", "bee"), tmp_path, exported=exported, events=events), tmp_path)
    assert "Exported: linear probe. Training did not beat it" in browser.text()
    assert "--num_train_epochs" in browser.text()
    assert "exported: linear probe" in browser.run("return document.querySelector('svg.chart').textContent")


@pytest.mark.parametrize(
    ("settings", "name", "caption"),
    [
        ({}, "training", "Loss of training (dashed"),
        (
            {"augmentation": "crop", "label_smoothing": 0.1},
            "training (regularized)",
            "includes augmentation and label smoothing 0.1, so even a perfect model has 0.50.",
        ),
        (
            {"augmentation": "none", "mixup": 0.2, "label_smoothing": 0.1},
            "training (regularized)",
            "includes mixup and label smoothing 0.1. Validation loss does not, so it can be lower.",
        ),
        ({"class_weights": "balanced"}, "training (regularized)", "includes class weights."),
        ({"teacher_model": "x"}, "training (regularized)", "includes distance from the teacher."),
        ({"loss": "binary_cross_entropy"}, "training", "binary cross-entropy and validation loss is"),
        ({"loss": "binary_cross_entropy", "multi_label": True}, "training", "Loss of training (dashed"),
    ],
)
def test_what_sets_training_loss_apart_from_validation_loss_stands_at_the_curves(
    browser, tmp_path: Path, settings, name: str, caption: str
):
    names = tuple("0123456789")
    multi_label = settings.get("multi_label", False)
    show(browser, page_of(names, tmp_path, settings=settings, multi_label=multi_label), tmp_path)
    legend = "return [...document.querySelectorAll('svg.chart text')].map(text => text.textContent)"
    assert name in browser.run(legend)
    assert caption in browser.text()


def test_macro_f1_stands_beside_accuracy_in_the_curves_and_tiles(browser, tmp_path: Path):
    show(browser, page_of(("ant", "bee"), tmp_path), tmp_path)
    assert "Macro F1, test" in browser.run("return document.querySelector('.tiles').innerText")
    scores = browser.run("return document.querySelectorAll('svg.chart')[1].textContent")
    assert "accuracy" in scores
    assert "macro F1" in scores


def test_own_metrics_stand_beside_the_others(browser, tmp_path: Path):
    page = page_of(("ant", "bee"), tmp_path)
    scores = {"test": replace(page.scores["test"], metrics={"kappa <b>": 0.4321})}
    show(browser, replace(page, scores=scores), tmp_path)
    table = browser.driver.find_element(By.CSS_SELECTOR, "#metrics + .scroll").text
    assert "kappa <b>" in table
    assert "0.4321" in table


def test_a_run_of_fewer_than_ten_steps_has_curves_too(browser, tmp_path: Path):
    probe = {**EVENTS[2], "step": 0, "epoch": 0.0}
    show(browser, page_of(("ant", "bee"), tmp_path, events=[probe, EVENTS[2]]), tmp_path)
    assert "Learning curves" in browser.text()
    assert "training was over before the first mean of ten steps" in browser.text()


def test_mistakes_have_a_scale_of_their_own_in_the_confusion_matrix(browser, tmp_path: Path):
    counts = np.array([[98, 2, 0], [0, 50, 0], [1, 0, 99]])
    strength = _confusion_colors(counts)[..., 3]
    assert strength[0, 1] > strength[0, 0]  # 2 % of mistakes, the largest, is as visible as 98 % right
    assert strength[0, 2] == 0
    assert 0 < strength[2, 0] < strength[0, 1]
    page = page_of(("ant", "bee", "cat"), tmp_path)
    show(browser, page, tmp_path)
    found = confusion_counts(page.predictions)
    shares = found / found.sum(axis=1, keepdims=True)
    largest = shares[~np.eye(3, dtype=bool)].max()
    assert f"on its own scale: share that is wrong, darkest at {100 * largest:.1f}" in browser.text()


def test_a_probability_is_never_rounded_to_none_or_all():
    shown = {0.0: "<0.1 %", 4e-4: "<0.1 %", 0.001: "0.1 %", 0.5: "50.0 %", 0.9996: ">99.9 %", 1.0: ">99.9 %"}
    assert {share: probability_text(share) for share in shown} == shown


def test_pictures_of_batches_become_small_ones(browser, tmp_path: Path):
    photo = Image.effect_noise((900, 900), 60).convert("RGB")
    photo.save(tmp_path / "train_batch.png")
    file = show(
        browser, page_of(("a", "b"), tmp_path, sheets={"A batch": tmp_path / "train_batch.png"}), tmp_path
    )
    assert "Example batches" in browser.text()
    assert file.stat().st_size < (tmp_path / "train_batch.png").stat().st_size


def test_a_thousand_classes_make_a_page_that_can_be_searched_and_sent(browser, tmp_path: Path):
    names = tuple(f"class {number}" for number in range(1000))
    file = show(browser, page_of(names, tmp_path, num_images=3000), tmp_path)
    assert file.stat().st_size < 3_000_000
    browser.driver.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("class 99")
    visible = (
        "return [...document.querySelectorAll('#class-table tbody tr')].filter(r => r.offsetParent).length"
    )
    assert browser.run(visible) == 11
    assert "Confusion matrix" in browser.text()


def test_several_labels_an_image_are_shown_with_mean_average_precision_and_without_confusion(
    browser, tmp_path: Path
):
    page = page_of(("cat", "dog", "hat"), tmp_path, multi_label=True)
    show(browser, page, tmp_path)
    text = browser.text()
    assert "mAP" in text
    assert "Hardest" in text
    assert "Confusion matrix" not in text
    assert "confused with" not in text


@pytest.mark.parametrize(
    ("parts", "absent"),
    [
        pytest.param({"events": ()}, "Learning curves", id="no training steps"),
        pytest.param({"events": EVENTS[:2]}, "Accuracy on the validation", id="no validation"),
        pytest.param(
            {"scores": {}, "predictions": None, "pictures": {}}, "Calibration", id="no labelled split"
        ),
        pytest.param({"train": None, "events": ()}, "Time per stage", id="scored without training"),
        pytest.param({"predictions": None}, "Mistakes", id="no predictions"),
    ],
)
def test_what_there_is_not_is_left_out(browser, tmp_path: Path, parts, absent: str):
    show(browser, page_of(("a", "b"), tmp_path, **parts), tmp_path)
    assert "my_resnet18 on shapes" in browser.text()
    assert absent not in browser.text()


def test_a_single_class_and_a_model_without_mistakes_show(browser, tmp_path: Path):
    show(browser, page_of(("only",), tmp_path), tmp_path)
    assert "Every test image is classified correctly" in browser.text()


def test_mistakes_are_the_surest_first_and_hard_examples_are_others():
    shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.05, 0.95], [0.8, 0.2], [0.45, 0.55]], np.float32)
    found = Predictions(
        split="test", rows=np.arange(5), labels=np.array([1, 1, 0, 0, 1]), probabilities=shares
    )
    mistakes = found.confident_mistakes(5)
    assert mistakes.tolist() == [2, 0]
    assert found.hardest(2, besides=mistakes).tolist() == [4, 1]


@pytest.mark.parametrize("multi_label", [False, True])
def test_predictions_come_back_from_their_file(tmp_path: Path, multi_label: bool):
    names = ("a", '"b", [c]', "d")
    written = page_of(names, tmp_path, multi_label=multi_label).predictions
    assert written is not None
    write_predictions([written], names, tmp_path / "predictions.parquet")
    read = read_predictions(tmp_path / "predictions.parquet", "test", names, multi_label=multi_label)
    assert read is not None
    for part in ("rows", "labels", "probabilities"):
        np.testing.assert_array_equal(getattr(read, part), getattr(written, part))
    assert read_predictions(tmp_path / "predictions.parquet", "train", names, multi_label=False) is None


def test_suspicious_labels_are_shown_with_their_pictures_and_hostile_names_as_text(browser, tmp_path: Path):
    shown = tmp_path / "train-7.webp"
    shown.write_bytes(as_webp(picture(seed=1)))
    line = {"row": "7", "file": "/data/<b>7</b>.png", "label": HOSTILE[0], "suggested": HOSTILE[1]}
    line |= {"probability_of_label": "0.0100", "probability_of_suggestion": "0.9800"}
    others = [line | {"row": str(row)} for row in range(100, 130)]
    page = page_of(("cat", "dog"), tmp_path, suspects=[line, *others], suspect_pictures={7: shown})
    show(browser, page, tmp_path)
    section = browser.driver.find_element(By.CSS_SELECTOR, "#suspects ~ ul")
    items = section.find_elements(By.TAG_NAME, "li")
    assert len(items) == 20
    assert HOSTILE[0] in items[0].text
    assert "98.0 %" in items[0].text
    assert len(items[0].find_elements(By.TAG_NAME, "img")) == 1
    assert "20 strongest of 31" in browser.driver.find_element(By.CSS_SELECTOR, "#suspects + p").text


def test_parts_of_a_page_show_in_a_notebook_and_leave_it_as_it_was(browser, tmp_path: Path):
    around = "<h2>mine</h2><table><tr><td>1</td></tr></table><svg><path d='M0 0L9 9'/></svg><p class='soft'>x"
    looks = (
        "const about = document.querySelector('#mine');"
        "return [...about.querySelectorAll('*')].map(e => Object.values(getComputedStyle(e))"
        ".map(name => getComputedStyle(e).getPropertyValue(name)).join())"
    )
    file = tmp_path / "notebook.html"
    page = page_of(HOSTILE, tmp_path)
    found = []
    for output in ("", page_fragment(page)):
        file.write_text(f"<!doctype html><meta charset=utf-8><div id=mine>{around}</div>{output}", "utf-8")
        browser.open(file.as_uri())
        found.append(browser.run(looks))
    assert found[0] == found[1]
    text = browser.text()
    for words in ("Accuracy, test", "Learning curves", "wrong predictions", HOSTILE[0]):
        assert words in text
    assert len(browser.run("return document.querySelectorAll('svg.chart')")) == 3
    assert browser.run("return document.scripts.length") == 0
    assert browser.messages() == []
    assert [found for found in browser.pictures() if not found["width"]] == []


@pytest.mark.parametrize(
    ("part", "shown"), [("scores", "Accuracy, test"), ("curves", "Learning curves"), ("mistakes", "true:")]
)
def test_a_part_of_a_page_comes_alone(tmp_path: Path, part: Part, shown: str):
    page = page_of(("ant", "bee", "cat"), tmp_path)
    assert shown in page_fragment(page, (part,))
    others = {"Accuracy, test", "Learning curves", "true:"} - {shown}
    assert not [other for other in others if other in page_fragment(page, (part,))]
