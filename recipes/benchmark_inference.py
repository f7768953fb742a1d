"""Images per second of the family beside timm and torchvision, measured in turns.

    python recipes/benchmark_inference.py --models resnet18 resnet50 --rounds 20

Each round runs every form once, in turns, each time with another first (A B C, B C A, ...), so that what else
the machine does meets them alike. A form's ratio is the median over rounds of timm's seconds divided by its
own.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

import resnet_hub  # noqa: F401  registers the family
from resnet_hub.cores import available_cores
from resnet_hub.formats.exported_network import ExportedNetwork
from resnet_hub.formats.onnx_files import open_onnx, quantize_onnx, write_onnx
from resnet_hub.models.optimize import OptimizedModel, optimize_for_inference

REFERENCE = "timm"


def main() -> None:
    """Measure, print a table, and write the numbers if asked."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    records = [measure_model(name, arguments, device) for name in arguments.models]
    for record in records:
        print_table(record)
    if arguments.output:
        machine = {"threads": arguments.threads, "device": str(device), "torch": torch.__version__}
        text = json.dumps({"machine": machine, "models": records}, indent=2)
        arguments.output.write_text(text + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    """Options of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs="+", default=["resnet18", "resnet50"], help="names in torchvision and timm"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="measure the compiled form as well")
    parser.add_argument("--onnx", action="store_true", help="measure ONNX in fp32 and int8 as well, on a CPU")
    parser.add_argument("--output", type=Path, help="write the numbers to this JSON file")
    return parser.parse_args()


def measure_model(name: str, arguments: argparse.Namespace, device: torch.device) -> dict:
    """Speeds of one network in all its forms, as ratios to timm's, with the deviations of the faster ones."""
    plain = timm.create_model(f"my_{name}").eval().to(device)
    optimized = {"optimised": optimize_for_inference(plain)}
    if arguments.compile:
        optimized["optimised, compiled"] = optimize_for_inference(plain, compile=True)
    forms: dict[str, Callable[[Tensor], object]] = {
        REFERENCE: timm.create_model(name).eval().to(device),
        "torchvision": torchvision.models.get_model(name).eval().to(device),
        "resnet_hub": plain,
    } | {form: made.model for form, made in optimized.items()}
    images = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size, device=device)
    if arguments.onnx:
        forms |= onnx_forms(plain, images)
    seconds = run_in_turns(forms, images, arguments.rounds)
    return {
        "model": name,
        "batch_size": arguments.batch_size,
        "image_size": arguments.image_size,
        "rounds": arguments.rounds,
        "forms": {form: summary(form, seconds, len(images), optimized.get(form)) for form in forms},
    }


def onnx_forms(model: nn.Module, images: Tensor) -> dict[str, Callable[[Tensor], object]]:
    """The network as ONNX, in float32 and in int8, run by onnxruntime with as many threads as torch."""
    network = ExportedNetwork(model, precision="fp32", with_preprocessing=False).eval()
    with tempfile.TemporaryDirectory() as scratch:
        plain, int8 = Path(scratch) / "model.onnx", Path(scratch) / "model_int8.onnx"
        write_onnx(network, images[:1].expand(2, -1, -1, -1), plain, facts={})
        quantize_onnx(plain, int8, calibration=images, facts={})
        return {"ONNX": open_onnx(plain), "ONNX, int8": open_onnx(int8)}


@torch.inference_mode()
def run_in_turns(
    forms: dict[str, Callable[[Tensor], object]], images: Tensor, rounds: int
) -> dict[str, list[float]]:
    """Seconds of one forward pass of each form in each round, after two rounds of warming up."""
    wait: Callable[[], None] = torch.cuda.synchronize if images.is_cuda else lambda: None
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    order = list(forms)
    for number in range(rounds + 2):
        order = [*order[1:], order[0]]  # nobody is always first
        for form in order:
            wait()
            start = time.perf_counter()
            forms[form](images)
            wait()
            if number >= 2:
                seconds[form].append(time.perf_counter() - start)
    return seconds


def summary(form: str, seconds: dict[str, list[float]], images: int, made: OptimizedModel | None) -> dict:
    """What one form did: its speed, its ratio to timm's, and how its logits differ."""
    ratios = [theirs / ours for theirs, ours in zip(seconds[REFERENCE], seconds[form], strict=True)]
    row = {
        "images_per_second": images / statistics.median(seconds[form]),
        "ratio_to_timm": statistics.median(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4)[::2],
    }
    if made:
        row |= {
            "precision": made.precision,
            "largest_deviation": made.largest_deviation,
            "largest_logit": made.largest_logit,
        }
    return row


def print_table(record: dict) -> None:
    """One line for each form."""
    print(f"\n{record['model']}, {record['batch_size']} images of {record['image_size']} pixels")
    for form, row in record["forms"].items():
        low, high = row["ratio_quartiles"]
        speed, ratio = row["images_per_second"], row["ratio_to_timm"]
        line = f"{form:20} {speed:8.1f} images/s  x{ratio:.2f} [{low:.2f}, {high:.2f}]"
        if "precision" in row:
            deviation, logit = row["largest_deviation"], row["largest_logit"]
            line += f"  {row['precision']}, logits within {deviation:.1g} of {logit:.2g}"
        print(line)


if __name__ == "__main__":
    main()
