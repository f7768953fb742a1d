"""Export a model: write, run and compare every file; the folder appears once all is done."""

import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_hub.errors import ModelError, RunError
from resnet_hub.files import atomic_folder, check_new_folder, expanded
from resnet_hub.formats.comparison import Deviation, Runner, compare, images_per_second, model_logits
from resnet_hub.formats.exported_network import ExportedNetwork
from resnet_hub.formats.kinds import Kind
from resnet_hub.formats.onnx_files import open_in_openvino, open_onnx, quantize_onnx, require_onnx, write_onnx
from resnet_hub.formats.torch_files import open_own_pt2, write_pt2

REPORT_FILE = "export_report.json"


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """What to write, and what to compare it on."""

    kinds: tuple[Kind, ...]
    pixels: Tensor
    """Resized and cropped images, uint8 (images, channels, height, width), to compare the answers on."""
    pixels_from: str
    """Where they are from, for the report."""
    calibration: Tensor | None = None
    """Other images of the same kind, from which int8 takes the ranges of its features."""
    with_preprocessing: bool = False
    largest_deviation: float | None = None
    """Replaces the limit of every kind."""
    least_agreement: float | None = None
    """Replaces the limit of every kind."""
    batch_size: int = 16
    facts: Mapping[str, Any]
    """What the report and the metadata of ONNX files say of the model: source, class names."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile:
    """One file: how far it is from the model, and how fast beside it; or why it was refused."""

    kind: str
    file: str
    megabytes: float | None
    deviation: Deviation | None
    """In ONNX Runtime, or torch."""
    largest_deviation: float
    """The limit of `deviation.share`."""
    least_agreement: float
    openvino_deviation: Deviation | None = None
    """Of an ONNX file, where OpenVINO is installed."""
    images_per_second: float | None = None
    ratio_to_eager: float | None = None
    refused: str | None = None
    """Why the file was removed; None for a file that is there."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was exported; `export_report.json` is this record."""

    facts: dict[str, Any]
    with_preprocessing: bool
    inputs: str
    outputs: list[str]
    preprocessing: dict[str, Any]
    """What an image goes through before the input (or in it, for scaling and normalization)."""
    num_images: int
    images_from: str
    num_calibration_images: int
    batch_size: int
    threads: int
    eager_images_per_second: float
    files: tuple[ExportedFile, ...]
    versions: dict[str, str]

    @property
    def refused(self) -> tuple[ExportedFile, ...]:
        """The files that were removed again."""
        return tuple(file for file in self.files if file.refused)


def write_formats(model: nn.Module, folder: Path, request: ExportRequest) -> ExportReport:
    """Write the requested kinds of files, and `export_report.json`, into a new folder.

    A file that does not run, or deviates too much, is removed, and the report gives the reason. If none is
    left, no folder is written.

    Raises:
        ConfigError: the folder holds something.
        ModelError: the request cannot be carried out; nothing was written.
    """
    folder = expanded(folder)
    _refuse_bad_request(folder, request)
    model = model.cpu().eval()
    wanted = model_logits(model, request.pixels, request.batch_size)
    if not wanted.isfinite().all():
        raise ModelError("The model's outputs are not finite. Check its weights.")
    report = None
    with suppress(_NothingLeft), atomic_folder(folder) as scratch:
        files = [_export(model, kind, scratch, request, wanted) for kind in request.kinds]
        report = _report(model, files, scratch, request)
        if len(report.refused) == len(report.files):
            raise _NothingLeft
        text = json.dumps(asdict(report), indent=2, ensure_ascii=False)
        (scratch / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    assert report is not None
    return report


class _NothingLeft(RunError):
    """Every file was refused."""


def _refuse_bad_request(folder: Path, request: ExportRequest) -> None:
    check_new_folder(folder)
    if any(kind.container == "onnx" for kind in request.kinds):
        require_onnx()
    needs_calibration = any(kind.precision == "int8" for kind in request.kinds)
    if needs_calibration and (request.calibration is None or not len(request.pixels)):
        raise ModelError(
            "int8 needs at least two images like those that the model will see, one to take ranges from and "
            f"one to compare on; there are only {request.pixels_from}. Name some hundred with --images."
        )


def _export(
    model: nn.Module, kind: Kind, folder: Path, request: ExportRequest, wanted: Tensor
) -> ExportedFile:
    """Write one file, run it, and compare it; it is removed if it must not be used."""
    path = folder / kind.file_name
    network = ExportedNetwork(
        model, precision=kind.precision, with_preprocessing=request.with_preprocessing
    ).eval()
    asked_deviation, asked_agreement = request.largest_deviation, request.least_agreement
    record = ExportedFile(
        kind=kind.name,
        file=path.name,
        megabytes=None,
        deviation=None,
        largest_deviation=kind.largest_deviation if asked_deviation is None else asked_deviation,
        least_agreement=kind.least_agreement if asked_agreement is None else asked_agreement,
    )
    try:
        _write(network, kind, path, request)
        found = {
            runtime: compare(_answers(run(path), network, request), wanted, multi_label=network.multi_label)
            for runtime, run in _runtimes(kind).items()
        }
    except OSError:
        raise
    except Exception as error:  # the exporters and runtimes have no common type for what they cannot do
        path.unlink(missing_ok=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return replace(record, refused=f"cannot be written or run: {reason[:200]}")
    own, *others = found.values()
    record = replace(
        record,
        deviation=own,
        openvino_deviation=others[0] if others else None,
        megabytes=round(path.stat().st_size / 1e6, 3),
    )
    refusals = [f"in {runtime} {why}" for runtime, off in found.items() if (why := _refusal(record, off))]
    if refusals:
        path.unlink()
    return replace(record, refused=refusals[0] if refusals else None)


def _runtimes(kind: Kind) -> dict[str, Callable[[Path], Runner]]:
    """What runs a file of the kind, the one that it is measured in first; OpenVINO where it is installed."""
    if kind.container == "pt2":
        return {"torch": open_own_pt2}
    others = {"OpenVINO": open_in_openvino} if find_spec("openvino") is not None else {}
    return {"ONNX Runtime": open_onnx} | others


def _write(network: ExportedNetwork, kind: Kind, path: Path, request: ExportRequest) -> None:
    # Two images: with one, the exporter would take the batch for a constant.
    example = network.prepare(request.pixels[:1].expand(2, -1, -1, -1))
    facts = dict(request.facts) | {
        "precision": kind.precision,
        "preprocessing": asdict(network.preprocessing),
    }
    if kind.container == "pt2":
        write_pt2(network, example, path)
    elif kind.precision != "int8":
        write_onnx(network, example, path, facts=facts)
    else:
        assert request.calibration is not None
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "model.onnx"
            write_onnx(network, example, source, facts={})
            calibration = network.prepare(request.calibration)
            quantize_onnx(source, path, calibration=calibration, facts=facts)


def _open(path: Path) -> Runner:
    return open_onnx(path) if path.suffix == ".onnx" else open_own_pt2(path)


@torch.inference_mode()
def _answers(run: Runner, network: ExportedNetwork, request: ExportRequest) -> Tensor:
    """Logits of all images, in batches of several sizes: one alone first."""
    first, others = request.pixels[:1], request.pixels[1:]
    batches = [first, *(others.split(request.batch_size) if len(others) else ())]
    return torch.cat([run(network.prepare(batch))[-1] for batch in batches])


def _refusal(record: ExportedFile, deviation: Deviation) -> str | None:
    if not deviation.share <= record.largest_deviation:
        return (
            f"its logits are up to {deviation.share:.2%} of the largest one away from the model's, and "
            f"{record.largest_deviation:.2%} is accepted (--tolerance)"
        )
    if deviation.agreement < record.least_agreement:
        return (
            f"it agrees with the model on {deviation.agreement:.2%} of the images, and at least "
            f"{record.least_agreement:.2%} is required (--min_agreement)"
        )
    return None


def _report(
    model: nn.Module, files: list[ExportedFile], folder: Path, request: ExportRequest
) -> ExportReport:
    network = ExportedNetwork(model, precision="fp32", with_preprocessing=request.with_preprocessing).eval()
    eager, files = _with_speeds(network, files, folder, request)
    channels, height, width = request.pixels.shape[1:]
    inputs = (
        f"images: uint8 (batch, {height}, {width}, {channels})"
        if request.with_preprocessing
        else f"images: normalized float32 (batch, {channels}, {height}, {width})"
    )
    return ExportReport(
        facts=dict(request.facts),
        with_preprocessing=request.with_preprocessing,
        inputs=inputs,
        outputs=network.output_names,
        preprocessing=asdict(network.preprocessing),
        num_images=len(request.pixels),
        images_from=request.pixels_from,
        num_calibration_images=0 if request.calibration is None else len(request.calibration),
        batch_size=request.batch_size,
        threads=torch.get_num_threads(),
        eager_images_per_second=round(eager, 2),
        files=tuple(files),
        versions=_versions(),
    )


def _with_speeds(
    network: ExportedNetwork, files: list[ExportedFile], folder: Path, request: ExportRequest
) -> tuple[float, list[ExportedFile]]:
    """Images per second of the network itself, and the records with theirs."""
    numbers = torch.arange(request.batch_size) % len(request.pixels)
    batch = network.prepare(request.pixels[numbers])
    kept = [file for file in files if not file.refused]
    forms: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {"eager": (network, batch)}
    forms |= {file.kind: (_open(folder / file.file), batch) for file in kept}
    speeds = images_per_second(forms)
    eager = speeds.pop("eager")
    measured = {
        kind: {"images_per_second": round(speed, 2), "ratio_to_eager": round(speed / eager, 3)}
        for kind, speed in speeds.items()
    }
    return eager, [replace(file, **measured.get(file.kind, {})) for file in files]


def _versions() -> dict[str, str]:
    found = {}
    for package in ("resnet_hub", "torch", "timm", "onnx", "onnxruntime", "openvino"):
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
