"""The demo: a picture goes in through a real browser, and its label comes out; the Space does the same."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio
import gradio_client
import numpy as np
import psutil
import pytest
import timm
import torch
from gradio.data_classes import ImageData
from huggingface_hub import SpaceCard, SpaceCardData
from PIL import Image, ImageChops
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from torch import nn

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.demo.about import about_model
from resnet_hub.demo.page import _bars, answering, build_page
from resnet_hub.demo.space import write_space
from resnet_hub.errors import ModelError
from resnet_hub.finetuning.report.metrics import score_predictions
from resnet_hub.images.decoding import open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.models.my_resnet import VARIANTS, register_variant
from resnet_hub.models.variant import Variant
from resnet_hub.prediction.gradcam import gradcam_over_photo
from resnet_hub.results import RunReport, TrainRecord
from tests.browser import Browser
from tests.color_model import COLORS, photo

pytest_plugins = ["tests.browser", "tests.color_model"]

TINY = Variant(block="basic", depths=(1, 1), widths=(8, 16), stem="conv3", stem_width=8)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def serving(*command: str, cwd: Path | None = None, **more: str) -> Iterator[str]:
    """The address of a page that a process serves until the block ends."""
    port = free_port()
    command = tuple(word.format(port=port) for word in command)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" or cwd is None}
    process = subprocess.Popen(
        [sys.executable, "-u", *command],
        cwd=cwd,
        env=environment | {key: value.format(port=port) for key, value in more.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        shown = ""
        for line in process.stdout:
            shown += line
            if f"http://127.0.0.1:{port}" in line:
                yield f"http://127.0.0.1:{port}/"
                break
        else:
            pytest.fail(f"it ended without an address:\n{shown}")
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def space(color_model: Path, color_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `resnet-hub demo --space` writes."""
    folder = tmp_path_factory.mktemp("space") / "colors"
    assert main(["demo", str(color_model), "--space", str(folder), "--examples", str(color_photos)]) == 0
    return folder


def upload(browser: Browser, path: Path) -> None:
    chooser = WebDriverWait(browser.driver, 60).until(
        lambda driver: driver.find_element(By.CSS_SELECTOR, "input[type=file]")
    )
    chooser.send_keys(str(path))


def wait_for_label(browser: Browser, label: str) -> None:
    WebDriverWait(browser.driver, 60, ignored_exceptions=[Exception]).until(
        lambda driver: (
            driver.find_element(By.CSS_SELECTOR, "[data-testid=label-output-value]").text.strip() == label
        )
    )


@pytest.mark.slow
def test_a_picture_that_is_uploaded_gets_its_label_bars_and_gradcam(
    browser, color_model, color_photos, tmp_path
):
    command = ("-m", "resnet_hub", "demo", str(color_model), "--port", "{port}")
    with serving(*command, "--examples", str(color_photos)) as address:
        browser.open(address)
        photo("green", 50).save(tmp_path / "green.png")
        upload(browser, tmp_path / "green.png")
        wait_for_label(browser, "green")
        bars = browser.driver.find_elements(By.CSS_SELECTOR, "[data-testid$=confidence-set]")
        assert {bar.get_attribute("data-testid") for bar in bars} == {
            f"{name}-confidence-set" for name in COLORS
        }
        WebDriverWait(browser.driver, 60).until(
            lambda driver: driver.execute_script(
                "return document.querySelector('.seen img')?.naturalWidth == 48"  # the photo's own width
            )
        )
        examples = browser.driver.find_elements(By.CSS_SELECTOR, "button.gallery-item, .gallery button")
        assert len(examples) == 8
        examples[0].click()  # the first by name is blue00.png
        wait_for_label(browser, "blue")
        assert not [message for message in browser.messages() if message.startswith("SEVERE")]
        assert all(re.match(rf"(blob:)?{address}", request) for request in browser.requests())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_uploaded_goes_with_the_page(number: int, color_model: Path, tmp_path: Path):
    photo, temporary = tmp_path / "photo.png", tmp_path / "temporary"
    temporary.mkdir()
    Image.new("RGB", (40, 30), "red").save(photo)
    command = ("-m", "resnet_hub", "demo", str(color_model), "--port", "{port}")
    with serving(*command, TMPDIR=str(temporary)) as address:
        labels = gradio_client.Client(address, verbose=False).predict(
            gradio_client.handle_file(photo), api_name="/classify"
        )
        assert labels
        assert list(temporary.rglob("photo.png"))
        server = next(child for child in psutil.Process().children() if "demo" in child.cmdline())
        server.send_signal(number)
        server.wait(20)
    assert list(temporary.rglob("*.png")) == []
    assert list(temporary.glob("resnet_hub-*")) == []


@pytest.mark.slow
def test_the_space_serves_the_same_page_with_its_own_copy_of_the_package(browser, space, tmp_path):
    code = "import resnet_hub; print(resnet_hub.__file__)"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=space, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(space)
    with serving("app.py", cwd=space, GRADIO_SERVER_PORT="{port}") as address:
        browser.open(address)
        photo("red", 50).save(tmp_path / "red.png")
        upload(browser, tmp_path / "red.png")
        wait_for_label(browser, "red")


def test_the_space_says_what_the_hub_has_to_know(space):
    card = SpaceCard.load(space / "README.md")
    assert isinstance(card.data, SpaceCardData)
    assert (card.data.sdk, card.data.sdk_version, card.data.app_file) == (
        "gradio",
        gradio.__version__,
        "app.py",
    )
    requirements = (space / "requirements.txt").read_text().splitlines()
    assert f"timm=={timm.__version__}" in requirements
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", line) for line in requirements)


def test_the_space_holds_the_model_the_examples_and_no_pickle(space, color_model):
    assert {path.name for path in (space / "model").iterdir()} == {"config.json", "model.safetensors"}
    about = json.loads((space / "about.json").read_text())
    assert about["name"] == "my_resnet20"
    assert "An image classifier" in about["card"]
    assert len(list((space / "examples").iterdir())) == 8
    assert not [path for path in space.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pyc")]
    wanted = resnet_hub.classify(resnet_hub.load(color_model), photo("blue", 9))
    assert resnet_hub.classify(resnet_hub.load(space / "model"), photo("blue", 9)) == wanted


def own_model(name: str, variant: Variant) -> nn.Module:
    register_variant(name, variant)
    model = timm.create_model(name, num_classes=2)
    model.pretrained_cfg["label_names"] = ("cat", "dog")
    return model.eval()


@pytest.mark.parametrize("name", ["tiny_net", "my_tiny"])
def test_a_variant_of_ones_own_is_refused_since_the_space_could_not_build_it(name, tmp_path):
    model = own_model(name, TINY)
    with pytest.raises(ModelError, match=f"{name} is a variant of your own.*Leave out --space"):
        write_space(model, tmp_path / "space", title="tiny")
    assert not (tmp_path / "space").exists()


def test_a_variant_of_ones_own_that_timm_has_as_well_is_shown_as_timms(tmp_path):
    model = own_model("same_as_resnet18", VARIANTS["my_resnet18"])
    folder = write_space(model, tmp_path / "space", title="same")
    code = "import resnet_hub; print(type(resnet_hub.load('model')).__module__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "timm.models.resnet"


def test_the_page_answers_as_classify_does_and_forgets_a_picture_that_is_taken_away(color_model, tmp_path):
    model = resnet_hub.load(color_model)
    answer = answering(model)
    photo("red", 3).save(tmp_path / "red.png")
    labels, overlay = answer(str(tmp_path / "red.png"))
    assert labels == dict(resnet_hub.classify(model, tmp_path / "red.png"))
    assert overlay is not None
    assert overlay.size == (48, 40)
    assert answer(None) == (None, None)


@pytest.fixture(scope="module")
def scored_model(color_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model as a run exports it: with a report and a card, here one that wants pictures."""
    folder = tmp_path_factory.mktemp("scored") / "colors"
    classes = tuple(COLORS)
    logits, labels = torch.eye(3).repeat(50, 1), torch.arange(3).repeat(50)
    logits[0] = torch.tensor([0.0, 1.0, 0.0])
    score = score_predictions(logits, labels, classes)
    report = RunReport(
        model="my_resnet20.x", base_model=None, base_license=None, num_classes=3, image_size=32, splits={},
        validation=None, test=score, train=TrainRecord(epochs=1, steps=1, seconds=1, images_per_second=1),
        seed=0, resumed_from_step=None, dataset="colors", class_names=classes,
    )  # fmt: skip
    resnet_hub.save_folder(resnet_hub.load(color_model), folder, class_names=classes, report=report)
    with (folder / "README.md").open("a") as card:
        card.write("![x](https://example.org/a.png) <img src='https://example.org/b.png'> ![y][z]\n")
    return folder


def test_the_page_names_model_score_and_card(scored_model: Path):
    about = about_model(resnet_hub.load(scored_model), scored_model)
    assert about.name == "my_resnet20.x"
    assert about.score is not None
    assert about.score.startswith(
        "accuracy 99.33% on 150 test images (95 % interval 96.32% to 99.88%), macro F1"
    )
    assert "## Results" in about.card
    page = build_page(resnet_hub.load(scored_model), title="my <colors>", about=about)
    texts = [str(block.value) for block in page.blocks.values() if isinstance(block, gradio.Markdown)]
    assert "# my &lt;colors&gt;" in texts[0]
    assert "Model my_resnet20.x, 3 classes, accuracy 99.33%" in texts[0]
    assert "## Results" in texts[1]
    labels = [block.label for block in page.blocks.values() if isinstance(block, gradio.Accordion)]
    assert labels == ["Model card"]


def test_a_card_that_wants_pictures_from_elsewhere_fetches_none(scored_model: Path):
    card = about_model(resnet_hub.load(scored_model), scored_model).card
    assert "a.png" not in card
    assert "<img" not in card
    assert "![" not in card
    assert not card.startswith("---")


def test_a_model_of_the_hub_or_of_timm_names_its_card_there():
    about = about_model(timm.create_model("my_resnet50"), "my_resnet50")
    assert about.card_url == "https://huggingface.co/timm/resnet50.a1_in1k"
    assert about.score == "top-1 accuracy 81.24 % on ImageNet-1k, as timm measured it"
    assert about_model(timm.create_model("resnet18", num_classes=3)).score is None


@pytest.mark.parametrize("size", [(48, 40), (8, 8), (640, 480), (480, 640), (900, 100)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_gradcam_lies_over_the_photo_at_its_own_size_and_only_where_the_model_looks(size, crop_mode, mode):
    model = timm.create_model("my_resnet20", num_classes=2, in_chans=len(mode)).eval()
    model.pretrained_cfg |= {"crop_mode": crop_mode, "crop_pct": 0.8, "input_size": (len(mode), 32, 32)}
    image = Image.effect_noise(size, 90).convert(mode)
    preprocessing = Preprocessing.of_model(model)
    overlay = gradcam_over_photo(model, image, preprocessing)
    assert overlay.size == size
    difference = ImageChops.difference(overlay, image.convert("RGB")).getbbox()
    left, top, right, bottom = preprocessing.crop_box(size)
    seen = (max(0, left), max(0, top), min(size[0], right), min(size[1], bottom))
    assert difference == pytest.approx(seen, abs=1.01)


@pytest.mark.parametrize("size", [(640, 480), (300, 700)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_the_crop_box_is_what_the_crop_shows(size, crop_mode):
    model = timm.create_model("my_resnet20", num_classes=2)
    model.pretrained_cfg |= {"crop_mode": crop_mode, "crop_pct": 0.8, "input_size": (3, 64, 64)}
    preprocessing = Preprocessing.of_model(model)
    across = Image.linear_gradient("L").rotate(90).resize(size)  # as bright as the place is far right
    image = Image.merge("RGB", [across, Image.linear_gradient("L").resize(size), Image.new("L", size, 255)])
    shown = preprocessing(image)[:, 32, :].numpy()
    left, _, right, _ = preprocessing.crop_box(size)
    places = left + (np.arange(64) + 0.5) / 64 * (right - left)
    inside = (places > 8) & (places < size[0] - 8)
    assert shown[0][inside] == pytest.approx(255 * places[inside] / size[0], abs=3)


def test_a_probability_next_to_none_is_not_shown_as_none():
    shown = _bars({"cat <b>": 0.9996, "dog": 0.0003, "owl": 0.0})
    assert shown.count("&lt;0.1 %") == 2
    assert "&gt;99.9 %" in shown
    assert "cat &lt;b&gt;" in shown
    assert _bars({}) == ""


def transparent() -> Image.Image:
    image = photo("red", 3).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def sixteen_bits() -> Image.Image:
    return Image.fromarray((np.arange(40 * 48, dtype=np.uint16) * 34).reshape(40, 48))


def palette() -> Image.Image:
    image = photo("blue", 3).quantize(16)
    image.info["transparency"] = 3
    return image


def turned() -> Image.Image:
    image = photo("green", 3)
    image.paste(photo("red", 3).crop((0, 0, 48, 12)))
    image.getexif()[0x0112] = 6  # EXIF: the camera was on its side
    return image


def turned_and_gray() -> Image.Image:
    image = turned().convert("L")
    image.getexif()[0x0112] = 6
    return image


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (transparent, "png"),
        (transparent, "webp"),
        (sixteen_bits, "png"),
        (sixteen_bits, "tiff"),
        (palette, "png"),
        (palette, "gif"),
        (turned, "jpg"),
        (turned_and_gray, "jpg"),
    ],
)
def test_what_is_uploaded_comes_to_the_model_as_the_file_that_it_is(color_model, tmp_path, make, suffix):
    file, image = tmp_path / f"upload.{suffix}", make()
    image.save(file, exif=image.getexif())
    model = resnet_hub.load(color_model)
    (upload,) = [
        block
        for block in build_page(model, title="colors").blocks.values()
        if isinstance(block, gradio.Image) and block.sources == ["upload", "clipboard"]
    ]
    path = upload.preprocess(ImageData(path=str(file), orig_name=file.name))
    assert Path(path).read_bytes() == file.read_bytes()
    assert np.array_equal(open_image(path), open_image(file))
    labels, _ = answering(model)(path)
    assert labels == dict(resnet_hub.classify(model, file))


def test_a_file_that_is_no_picture_is_explained_to_the_visitor(color_model, tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(gradio.Error, match="is not an image"):
        answering(resnet_hub.load(color_model))(str(tmp_path / "page.png"))


def test_classes_of_one_name_are_told_apart(color_model, tmp_path):
    model = resnet_hub.load(color_model)
    model.pretrained_cfg["label_names"] = ("crane", "crane", "dog")
    photo("red", 3).save(tmp_path / "red.png")
    labels, _ = answering(model)(str(tmp_path / "red.png"))
    assert labels is not None
    assert set(labels) == {"crane (0)", "crane (1)", "dog"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "1 to 65535"),
        (["--examples", "nowhere"], "no such folder"),
        (["--space", "."], "already exists"),
        (["--space", "new", "--port", "8000"], "leave out"),
        (["--spce", "x"], "did you mean '--space'"),
    ],
)
def test_bad_input_is_refused(color_model, capsys, arguments, message):
    assert main(["demo", str(color_model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error_that_names_it(color_model, capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert main(["demo", str(color_model), "--port", str(port)]) == 2
    assert str(port) in capsys.readouterr().err
