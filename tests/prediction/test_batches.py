"""`resnet-hub predict`: any images with any trained model, into any table."""

import csv
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.errors import ModelError
from resnet_hub.images.decoding import BadImageError
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction import find_images, inputs, open_model, predict_images
from resnet_hub.prediction.gradcam import gradcam_overlays
from resnet_hub.prediction.temperature import fit_temperature, temperature_of_run
from tests.hub_server.fixtures import publish

pytest_plugins = ["tests.hub_server.fixtures"]

NAMES = ["ant", "bee", "cat", "dog"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder: an export, and predictions that are twice as sure as they should be."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "run"
    resnet_hub.save_folder(
        timm.create_model("my_resnet20", num_classes=4), folder / "export", class_names=NAMES
    )
    logits = torch.randn(4000, 4) * 2
    labels = torch.distributions.Categorical(logits=logits).sample()
    shares = (2 * logits).softmax(dim=1)
    table = {
        "split": ["validation"] * 4000,
        "label": [NAMES[label] for label in labels],
        "probabilities": shares.tolist(),
    }
    pq.write_table(pa.table(table), folder / "predictions.parquet")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images in two folders, and three files that are none or broken."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "deep/c.jpg", "deep/d e.webp", "deep/er/f.JPG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    (folder / "deep/none").mkdir()
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:700])
    (folder / "deep/page.png").write_text("<html>not found</html>")
    return folder


def records(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_folder_gives_what_classify_gives_and_lists_what_cannot_be_read(run: Path, photos: Path, capsys):
    assert main(["predict", str(run), str(photos), "--json", "--top_k", "4", "--batch_size", "2"]) == 0
    found = records(capsys)
    names = ["a.jpg", "b.png", "deep/c.jpg", "deep/d e.webp", "deep/er/f.JPG"]
    assert [row["image"] for row in found["images"]] == [str(photos / name) for name in names]
    model = resnet_hub.load(run)
    for row in found["images"]:
        expected = resnet_hub.classify(model, row["image"], top_k=4)
        assert [entry["label"] for entry in row["predictions"]] == [label for label, _ in expected]
        shares = [entry["probability"] for entry in row["predictions"]]
        assert shares == pytest.approx([share for _, share in expected], abs=1e-5)
    problems = {Path(row["image"]).name: row["problem"] for row in found["unreadable"]}
    assert problems.keys() == {"cut.jpg", "page.png"}
    assert "HTML" in problems["page.png"]


def test_the_terminal_gets_a_table_and_the_unreadable_go_to_stderr(run: Path, photos: Path, capsys):
    assert main(["predict", str(run), str(photos / "a.jpg"), str(photos / "cut.jpg")]) == 0
    output = capsys.readouterr()
    assert "a.jpg" in output.out
    assert "unreadable" in output.err
    assert "cut.jpg" in output.err


def test_nothing_readable_is_exit_code_1(run: Path, photos: Path, capsys):
    assert main(["predict", str(run), str(photos / "cut.jpg"), str(photos / "notes.txt")]) == 1
    assert capsys.readouterr().err.count("unreadable") == 2


def test_the_three_kinds_of_file_hold_the_same_and_are_not_written_over(
    run: Path, photos: Path, tmp_path, capsys
):
    files = [tmp_path / "new" / f"labels.{kind}" for kind in ("csv", "jsonl", "parquet")]
    for file in files:
        assert main(["predict", str(run), str(photos / "*.jpg"), "--output", str(file), "--top-k", "2"]) == 0
        before = file.read_bytes()
        assert main(["predict", str(run), str(photos), "--output", str(file)]) == 2
        assert "already exists" in capsys.readouterr().err
        assert file.read_bytes() == before
    assert {path.name for path in files[0].parent.iterdir()} == {file.name for file in files}
    with files[0].open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    (line,) = [json.loads(text) for text in files[1].read_text().splitlines()]
    (entry,) = pq.read_table(files[2]).to_pylist()
    assert list(row) == ["image", "label_1", "probability_1", "label_2", "probability_2"]
    assert row["image"] == line["image"] == entry["image"] == str(photos / "a.jpg")
    labels = [found["label"] for found in line["predictions"]]
    assert [row["label_1"], row["label_2"]] == labels == entry["labels"]
    shares = [found["probability"] for found in line["predictions"]]
    assert entry["probabilities"] == pytest.approx(shares)
    assert float(row["probability_1"]) == pytest.approx(shares[0], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{photos}", "--output", "labels.xlsx"], "known are .csv, .jsonl, .parquet"),
        (["{photos}/*.tiff"], "No file matches"),
        (["{photos}/deep/none"], "holds no images"),
        (["{photos}/a.jpeg"], "did you mean 'a.jpg'"),
        ([], "Name the images"),
        (["{photos}", "--split", "test"], "--split goes with --dataset_name"),
        (["{photos}", "--top_k", "0"], "1 or more"),
        (["{photos}", "--temperature", "warm"], "a number above 0, or auto"),
        (["{photos}", "--gradcam", "{photos}"], "already exists"),
        (["https://example.org/cat.jpg"], "--allow_urls"),
        (["file:///etc/passwd", "--allow_urls"], "only http and https"),
        (["--dataset_name", "digits", "--split", "tset"], "has no split 'tset'"),
    ],
    ids=str,
)
def test_a_mistake_is_exit_code_2(run: Path, photos: Path, words: list[str], message: str, capsys):
    assert main(["predict", str(run), *(word.format(photos=photos) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_images_of_a_data_set_are_named_by_split_and_row(run: Path, capsys):
    words = ["--dataset_name", "digits", "--split", "all[5:8]", "--json", "--num_workers", "1"]
    assert main(["predict", str(run), *words]) == 0
    assert [row["image"] for row in records(capsys)["images"]] == ["all[5]", "all[6]", "all[7]"]


class Pages(http.server.BaseHTTPRequestHandler):
    """An image, a redirection out of the web, an endless answer, and nothing else."""

    image = b""

    def do_GET(self):
        if self.path == "/cat.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.image)
        elif self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/cat.png")
            self.end_headers()
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                pass
        else:
            self.send_error(404)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def site(photos: Path) -> Iterator[str]:
    Pages.image = (photos / "b.png").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses_are_fetched_on_request_within_limits(
    run: Path, photos: Path, site: str, monkeypatch, capsys
):
    monkeypatch.setattr(inputs, "MAX_DOWNLOAD_BYTES", 1 << 20)
    addresses = [f"{site}/{page}" for page in ("cat.png", "away", "endless", "missing")]
    assert main(["predict", str(run), *addresses, "--allow_urls", "--json"]) == 0
    found = records(capsys)
    (image,) = found["images"]
    expected = resnet_hub.classify(resnet_hub.load(run), photos / "b.png")
    assert image["predictions"][0]["label"] == expected[0].label
    problems = [row["problem"] for row in found["unreadable"]]
    assert "unknown url type" in problems[0]
    assert "larger than 1 MiB" in problems[1]
    assert "404" in problems[2]


def test_a_server_that_takes_too_long_is_given_up(site: str, monkeypatch):
    monkeypatch.setattr(inputs, "DOWNLOAD_SECONDS", 0.0)
    (image,) = find_images([f"{site}/endless"], allow_urls=True)
    with pytest.raises(BadImageError, match="took longer"):
        image.read()


def test_the_fitted_temperature_undoes_being_too_sure(run: Path, photos: Path, capsys):
    assert temperature_of_run(run, NAMES) == pytest.approx(2, rel=0.06)
    assert main(["predict", str(run), str(photos / "a.jpg"), "--temperature", "auto", "--json"]) == 0
    fitted = records(capsys)
    assert fitted["temperature"] == pytest.approx(2, rel=0.06)
    assert main(["predict", str(run), str(photos / "a.jpg"), "--json"]) == 0
    plain = records(capsys)
    shares = [found["images"][0]["predictions"][0]["probability"] for found in (fitted, plain)]
    assert shares[0] < shares[1]


def test_the_fitted_temperature_has_the_least_loss_of_all():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(500, 3, generator=generator), torch.randint(3, (500,), generator=generator)
    logits[range(500), labels] += 1.0
    fitted = fit_temperature(logits, labels)
    smoothing = {"label_smoothing": 3 / (2 * 502)}  # a label counts for 501 / 502
    losses = {
        scale: torch.nn.functional.cross_entropy(
            logits.double() / (fitted * scale), labels, **smoothing
        ).item()
        for scale in (0.97, 1.0, 1.03)
    }
    assert losses[1.0] < min(losses[0.97], losses[1.03])


def test_no_mistakes_among_few_images_do_not_make_answers_certain():
    labels = torch.arange(18) % 3
    logits = 4.0 * torch.nn.functional.one_hot(labels, 3) + torch.randn(18, 3, generator=torch.manual_seed(0))
    assert (logits.argmax(dim=1) == labels).all()
    confidence = torch.softmax(logits / fit_temperature(logits, labels), dim=1).amax(dim=1).mean()
    assert confidence < 19 / 20


def test_without_validation_predictions_there_is_no_automatic_temperature(run: Path):
    with pytest.raises(ModelError, match=r"there is no .*predictions\.parquet"):
        temperature_of_run(run / "export", NAMES)


class Brightness(torch.nn.Module):
    """Tells bright from dark by the mean of the pixels, so that its evidence is where the light is."""

    feature_info = ({"module": "layer4"},)

    def __init__(self):
        super().__init__()
        self.layer4 = torch.nn.Conv2d(3, 1, 1, bias=False)
        self.fc = torch.nn.Linear(1, 2)
        self.layer4.weight.data.fill_(1.0)
        self.fc.weight.data = torch.tensor([[1.0], [-1.0]])

    def forward(self, images):
        return self.fc(self.layer4(images).mean(dim=(2, 3)))


def test_gradcam_is_warm_where_the_class_is_decided():
    model = Brightness().eval()
    preprocessing = Preprocessing(
        image_size=(64, 64),
        crop_fraction=1.0,
        crop_mode="center",
        interpolation="bilinear",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    pixels[:, :, :24, :24] = 200
    (overlay,) = gradcam_overlays(model, pixels, preprocessing)
    red, _, blue = np.moveaxis(np.asarray(overlay, dtype=float), 2, 0)
    assert (red > blue)[:22, :22].all()
    assert (red < blue)[26:, 26:].all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_gradcam_pictures_are_saved_for_every_readable_image(run: Path, photos: Path, tmp_path: Path, capsys):
    folder = tmp_path / "cam"
    assert main(["predict", str(run), str(photos), "--gradcam", str(folder), "--batch_size", "3"]) == 0
    names = ["00000_a.png", "00001_b.png", "00002_c.png", "00003_d_e.png", "00004_f.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert Image.open(folder / names[0]).size == (32, 32)


def test_a_model_is_found_by_folder_repository_and_name(run: Path, hub, photos: Path, tmp_path: Path):
    model = timm.create_model("my_resnet18")
    resnet_hub.save_folder(model, tmp_path / "weights", class_names=[str(number) for number in range(1000)])
    publish(hub, tmp_path / "weights", "timm/resnet18.a1_in1k")
    publish(hub, run / "export", "alice/animals")
    weight = model.state_dict()["fc.weight"]
    for name in ("my_resnet18", "resnet18.a1_in1k"):
        assert torch.equal(open_model(name).state_dict()["fc.weight"], weight)
    for name in (run, str(run / "export"), "alice/animals"):
        assert open_model(name).get_classifier().out_features == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_resnet51", "did you mean"),
        ("my_resnet32", "no pretrained weights"),
        ("my_resnet50.a1_in2k", "did you mean 'my_resnet50.a1_in1k'"),
    ],
)
def test_a_model_without_weights_is_refused(name: str, message: str):
    with pytest.raises(ModelError, match=message):
        open_model(name)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("my_resnet50", "Name timm/resnet50.a1_in1k, where its weights are"),
        ("my_resnet50.a1_in1k", "Name timm/resnet50.a1_in1k, where its weights are"),
        ("my_resnet20", "Name the repository that is meant"),
    ],
)
def test_a_revision_of_a_models_name_is_refused_and_not_ignored(name: str, instead: str):
    for pretrained in (True, False):
        with pytest.raises(ModelError, match="only a repository on the Hub") as refused:
            open_model(name, revision="v1", pretrained=pretrained)
        assert instead in str(refused.value)


def test_memory_holds_one_batch_at_a_time(run: Path, photos: Path):
    """Images are read when their batch is due and not before."""
    read = []

    class Noted:
        name = "a"

        def read(self) -> bytes:
            read.append(1)
            return (photos / "a.jpg").read_bytes()

    rows = predict_images(open_model(run), [Noted()] * 10, batch_size=2, num_workers=0)
    next(rows)
    assert len(read) <= 4
    assert len(list(rows)) == 9


# pillow-heif where it is not installed: its opener, for files that hold a PNG after sixteen bytes of a HEIC.
HEIF_PACKAGE = """
import io
from PIL import Image

def register_heif_opener():
    def opened(file, name):
        return Image.open(io.BytesIO(file.read()[16:]))

    Image.register_open("HEIF", opened, lambda head: head[4:12] == b"ftypheic")
"""


@pytest.fixture
def heic_photos(photos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "phone"
    folder.mkdir()
    for name in ("IMG_1.HEIC", "img_2.heif"):
        (folder / name).write_bytes(b"\0\0\0\x10ftypheic\0\0\0\0" + (photos / "b.png").read_bytes())
    return folder


def test_heic_images_are_read_on_the_command_line_where_pillow_heif_is_installed(
    run: Path, photos: Path, heic_photos: Path, tmp_path: Path
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/pillow_heif.py").write_text(HEIF_PACKAGE)
    places = [str(tmp_path / "site"), *sys.path]
    done = subprocess.run(
        [sys.executable, "-m", "resnet_hub", "predict", run, heic_photos, photos / "b.png", "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["unreadable"] == []
    answers = [row["predictions"] for row in found["images"]]
    assert answers == [answers[0]] * 3


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif reads the images")
def test_without_pillow_heif_the_message_names_it(run: Path, heic_photos: Path, capsys):
    assert main(["predict", str(run), str(heic_photos)]) == 1
    assert (
        capsys.readouterr().err.count("HEIC image, which needs a package more: pip install pillow-heif") == 2
    )


def test_a_real_heic_image_is_read(run: Path, photos: Path, tmp_path: Path, capsys):
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif is not installed; no extra brings it")
    heif.register_heif_opener()
    Image.open(photos / "b.png").save(tmp_path / "b.heic", quality=-1)
    assert main(["predict", str(run), str(tmp_path / "b.heic"), str(photos / "b.png"), "--json"]) == 0
    lossless, png = (row["predictions"][0]["label"] for row in json.loads(capsys.readouterr().out)["images"])
    assert lossless == png
