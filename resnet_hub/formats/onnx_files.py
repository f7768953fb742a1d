"""ONNX files: written by torch's exporter, quantized and run by onnxruntime."""

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnet_hub.errors import naming_the_extra
from resnet_hub.formats.exported_network import ExportedNetwork

INPUT = "images"
_CALIBRATION_BATCH = 8


def require_onnx() -> None:
    """Raise UserError, which names the extra to install, unless all packages are there."""
    with naming_the_extra():
        import onnx  # noqa: F401, PLC0415
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415


def write_onnx(network: ExportedNetwork, example: Tensor, path: Path, *, facts: Mapping[str, Any]) -> None:
    """Write the network for batches of any size, checked by onnx; `facts` go into its metadata."""
    import onnx  # noqa: PLC0415

    with _quiet():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=network.output_names,
            verbose=False,
        )
    assert program is not None
    program.save(path)
    _add_facts(path, facts)
    onnx.checker.check_model(str(path), full_check=True)


def quantize_onnx(source: Path, path: Path, *, calibration: Tensor, facts: Mapping[str, Any]) -> None:
    """Write `source` with 8-bit weights and features, their ranges taken from the `calibration` inputs.

    Weights have a scale for each output channel. Only what the processor multiplies in 8 bits is quantized,
    so normalization and probabilities stay in float32.
    """
    import onnx  # noqa: PLC0415
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as scratch, _quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "ReduceMean"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    _add_facts(path, facts)
    onnx.checker.check_model(str(path), full_check=True)


def open_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """The file as a function from inputs to outputs, run by onnxruntime with as many threads as torch has."""
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {INPUT: images.numpy()})]

    return run


def open_in_openvino(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """The file as a function from inputs to outputs, run by OpenVINO on the CPU in its full precision."""
    core = import_module("openvino").Core()  # no extra brings it
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # what is quantized stays so; nothing else is rounded to bf16
    compiled = core.compile_model(core.read_model(str(path)), "CPU", exact)

    def run(images: Tensor) -> list[Tensor]:
        found = compiled([images.numpy()])
        return [torch.from_numpy(found[output]) for output in compiled.outputs]

    return run


def _reader(images: Tensor) -> Any:
    from onnxruntime.quantization import CalibrationDataReader  # noqa: PLC0415

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(images.split(_CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self.left, None)
            return None if batch is None else {INPUT: batch.numpy()}

    return Batches()


def _add_facts(path: Path, facts: Mapping[str, Any]) -> None:
    import onnx  # noqa: PLC0415

    model = onnx.load(str(path))
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporters log about their own internals."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
