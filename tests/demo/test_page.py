"""The demo: a picture goes in through a real browser, and its label comes out; the Space does the same."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio
import numpy as np
import pytest
import timm
from gradio.data_classes import ImageData
from huggingface_hub import SpaceCard, SpaceCardData
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from torch import nn

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.demo.page import answering, build_page
from resnet_hub.demo.space import write_space
from resnet_hub.errors import ModelError
from resnet_hub.images.decoding import open_image
from resnet_hub.models.my_resnet import VARIANTS, register_variant
from resnet_hub.models.variant import Variant
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
                "return [...document.images].some(image => image.naturalWidth == 256)"  # 32 px, enlarged
            )
        )
        examples = browser.driver.find_elements(By.CSS_SELECTOR, "button.gallery-item, .gallery button")
        assert len(examples) == 8
        examples[0].click()  # the first by name is blue00.png
        wait_for_label(browser, "blue")
        assert not [message for message in browser.messages() if message.startswith("SEVERE")]
        assert all(re.match(rf"(blob:)?{address}", request) for request in browser.requests())


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
    assert overlay.size == (256, 256)
    assert answer(None) == (None, None)


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
