"""Exported files: other programs run them, they answer as the model does, and others are removed."""

import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import resnet_hub
from resnet_hub.cli.main import main
from resnet_hub.formats.kinds import KINDS
from resnet_hub.images.preprocessing import Preprocessing
from tests.color_model import COLORS, photo

pytest_plugins = ["tests.color_model"]


@pytest.fixture(scope="module")
def exported(color_model: Path, color_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `resnet-hub export` writes in every format."""
    output = tmp_path_factory.mktemp("exported") / "files"
    arguments = ["--output_dir", str(output), "--images", str(color_photos), "--formats", *KINDS]
    assert main(["export", str(color_model), *arguments]) == 0
    return output


def report_of(output: Path) -> dict:
    return json.loads((output / "export_report.json").read_text())


def images(count: int) -> torch.Tensor:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(count))
    return (pixels / 255 - 0.45) / 0.25


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_onnxruntime_answers_as_the_model_for_any_batch_size(color_model, exported, batch_size):
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images(batch_size).numpy()})
    with torch.inference_mode():
        wanted = resnet_hub.load(color_model)(images(batch_size)).numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-4 * abs(wanted).max())


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_torch_runs_the_archive_without_the_code_of_the_model(color_model, exported, batch_size):
    module = torch.export.load(exported / "model.pt2").module()
    with torch.inference_mode():
        wanted = resnet_hub.load(color_model)(images(batch_size))
        assert torch.allclose(module(images(batch_size)), wanted, atol=1e-4 * float(wanted.abs().max()))


def test_every_format_is_written_compared_and_measured(exported):
    report = report_of(exported)
    assert {row["file"] for row in report["files"]} | {"export_report.json"} == {
        path.name for path in exported.iterdir()
    }
    assert (report["num_images"], report["num_calibration_images"]) == (24, 24)
    for row in report["files"]:
        share = row["deviation"]["logit"] / row["deviation"]["largest_logit"]
        assert share <= row["largest_deviation"], row
        assert row["deviation"]["agreement"] == 1, row
        assert row["images_per_second"] > 0, row
    deviations = {row["kind"]: row["deviation"]["logit"] for row in report["files"]}
    assert deviations["onnx"] < deviations["onnx_fp16"] < deviations["onnx_int8"]


def test_smaller_formats_are_smaller_and_every_layer_is_in_8_bits(color_model, exported):
    sizes = {path.name: path.stat().st_size for path in exported.iterdir()}
    assert sizes["model_int8.onnx"] < 0.45 * sizes["model.onnx"]
    assert sizes["model_fp16.onnx"] < 0.65 * sizes["model.onnx"]
    tensors = onnx.load(exported / "model_int8.onnx").graph.initializer
    eight_bits = [tensor for tensor in tensors if tensor.data_type == onnx.TensorProto.INT8]
    layers = [
        module
        for module in resnet_hub.load(color_model).modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert sum(np.prod(tensor.dims) > 100 for tensor in eight_bits) == len(layers) == 20


def test_an_onnx_file_says_what_its_outputs_mean(exported):
    for file in exported.glob("*.onnx"):
        facts = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert json.loads(facts["class_names"]) == list(COLORS)
        assert facts["source"] == "colors"  # the name of the folder, not where it lies
        assert json.loads(facts["preprocessing"])["image_size"] == [32, 32]


def test_with_preprocessing_a_file_takes_pixels_and_gives_the_probabilities_of_classify(
    color_model, color_photos, tmp_path
):
    output = tmp_path / "out"
    arguments = ["--with-preprocessing", "--formats", "onnx", "onnx_int8", "--images", str(color_photos)]
    assert main(["export", str(color_model), "--output-dir", str(output), *arguments]) == 0
    model, picture = resnet_hub.load(color_model), photo("green", 7)
    pixels = np.asarray(Preprocessing.of_model(model).crop(picture))[None]
    wanted = dict(resnet_hub.classify(model, picture))
    for name, tolerance in (("model.onnx", 1e-5), ("model_int8.onnx", 0.05)):
        session = onnxruntime.InferenceSession(output / name, providers=["CPUExecutionProvider"])
        (found,) = session.run(["probabilities"], {"images": pixels})
        assert found[0] == pytest.approx([wanted[color] for color in COLORS], abs=tolerance)


def test_uint8_pixels_are_normalized_as_openvino_expects_it_before_a_quantized_layer(
    color_model, color_photos, tmp_path
):
    """Channels first, minus the mean, over the deviation: the form of its own preprocessing."""
    words = ["--with_preprocessing", "--formats", "onnx_int8", "--images", str(color_photos)]
    assert main(["export", str(color_model), "--output_dir", str(tmp_path / "out"), *words]) == 0
    nodes = onnx.load(tmp_path / "out/model_int8.onnx").graph.node
    graph = [node for node in nodes if node.op_type != "Shape"]  # which tells the size of the batch
    steps, name = [], "images"
    while len(steps) < 5:
        (node,) = (node for node in graph if name in node.input)
        steps.append(node.op_type)
        name = node.output[0]
    assert steps == ["Transpose", "Cast", "Sub", "Div", "QuantizeLinear"]


@pytest.fixture
def openvino_that_errs(monkeypatch):
    """Stands in for OpenVINO: runs files in onnxruntime, and gives the classes in another order."""

    class Compiled:
        outputs = (0,)

        def __init__(self, path: str) -> None:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def __call__(self, inputs: list[np.ndarray]) -> dict[int, np.ndarray]:
            return {0: self.session.run(["logits"], {"images": inputs[0]})[0][:, ::-1].copy()}

    class Core:
        def read_model(self, path: str) -> str:
            return path

        def compile_model(self, model: str, device: str, options: dict) -> Compiled:
            return Compiled(model)

    module = types.ModuleType("openvino")
    module.__spec__ = ModuleSpec("openvino", None)
    module.Core = Core  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "openvino", module)


def test_a_file_that_answers_otherwise_in_openvino_is_refused(
    openvino_that_errs, color_model, color_photos, tmp_path, capsys
):
    words = ["--formats", "onnx", "pt2", "--images", str(color_photos)]
    assert main(["export", str(color_model), "--output_dir", str(tmp_path / "out"), *words]) == 1
    assert "model.onnx is refused and removed: in OpenVINO its logits" in capsys.readouterr().err
    rows = {row["kind"]: row for row in report_of(tmp_path / "out")["files"]}
    assert rows["onnx"]["deviation"]["agreement"] == 1
    assert rows["onnx"]["openvino_deviation"]["agreement"] < 1
    assert rows["pt2"]["refused"] is None


@pytest.mark.parametrize("words", [[], ["--with_preprocessing"]], ids=["normalized", "pixels"])
def test_openvino_answers_as_the_model(words: list[str], color_model, color_photos, tmp_path):
    pytest.importorskip("openvino", reason="OpenVINO is not installed; no extra of the package brings it")
    kinds = ["onnx", "onnx_fp16", "onnx_int8"]
    words = [*words, "--formats", *kinds, "--images", str(color_photos)]
    assert main(["export", str(color_model), "--output_dir", str(tmp_path / "out"), *words]) == 0
    rows = report_of(tmp_path / "out")["files"]
    assert all(row["openvino_deviation"]["agreement"] == 1 for row in rows)


def test_a_file_that_deviates_more_than_accepted_is_removed_and_the_others_stay(
    color_model, color_photos, tmp_path, capsys
):
    output = tmp_path / "out"
    arguments = ["--images", str(color_photos), "--formats", "onnx", "onnx_int8", "--tolerance", "1e-4"]
    assert main(["export", str(color_model), "--output_dir", str(output), *arguments]) == 1
    assert sorted(path.name for path in output.iterdir()) == ["export_report.json", "model.onnx"]
    refused = {row["kind"]: row["refused"] for row in report_of(output)["files"]}
    assert refused["onnx"] is None
    assert "away from the model's" in refused["onnx_int8"]
    assert "model_int8.onnx is refused" in capsys.readouterr().err


def test_a_network_too_wide_for_16_bits_leaves_no_folder_behind(color_model, tmp_path, capsys):
    model = resnet_hub.load(color_model)
    with torch.no_grad():
        model.layer1[0].bn1.weight.mul_(1e6)  # half floats end at 65504
    resnet_hub.save_folder(model, tmp_path / "wide", class_names=list(COLORS))
    arguments = ["--output_dir", str(tmp_path / "out"), "--formats", "pt2_fp16"]
    assert main(["export", str(tmp_path / "wide"), *arguments]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["wide"]
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "onx"], "did you mean 'onnx'"),
        (["--formats", "onnx_int8"], "--images"),
        (["--formats", "onnx_int8", "--images", "{photos}/red00.png"], "at least two images"),
        (["--images", "nowhere"], "no file or folder"),
        (["--output_dir", "{photos}"], "already exists"),
        (["--output_dir", "{photos}/red00.png"], "already exists"),
        (["--tolerance", "-1"], "at least 0"),
        (["--min_agreement", "98"], "from 0 to 1"),
        (["--batch_size", "0"], "1 or more"),
        (["--frmats", "onnx"], "did you mean '--formats'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    color_model, color_photos, tmp_path, capsys, *, arguments, message
):
    words = [word.format(photos=color_photos) for word in arguments]
    assert main(["export", str(color_model), "--output_dir", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_image_is_left_out_and_named(color_model, color_photos, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    arguments = ["--formats", "pt2", "--json", "--images", str(broken), str(color_photos)]
    assert main(["export", str(color_model), "--output_dir", str(tmp_path / "out"), *arguments]) == 0
    shown = capsys.readouterr()
    assert "broken.png" in shown.err
    assert json.loads(shown.out)["num_images"] == 48


def test_without_images_it_says_that_the_pixels_were_random(color_model, tmp_path, capsys):
    arguments = ["--output_dir", str(tmp_path / "out"), "--formats", "pt2"]
    assert main(["export", str(color_model), *arguments]) == 0
    assert "random pixels" in capsys.readouterr().out
