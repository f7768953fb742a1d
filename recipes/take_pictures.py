"""The pictures of README: a run on the terminal and the top of its page, photographed in headless Chromium.

python -m resnet_hub.finetuning --config recipes/configs/digits.yaml --output_dir runs/digits &> digits.log
python recipes/take_pictures.py runs/digits digits.log
"""

import argparse
import html
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

PICTURES = Path(__file__).parent / "pictures"
COMMAND = "python -m resnet_hub.finetuning --config recipes/configs/digits.yaml --output_dir runs/digits"
COMMAND = "python -m resnet_hub.finetuning --config recipes/configs/digits.yaml --output_dir runs/digits"
WIDTH, TALLEST = 1200, 3000
MARGIN = 20
# The page down to its mistakes.
TOP = (
    "<style>:is(#suspects, #classes), :is(#suspects, #classes) ~ *, details, footer { display: none }</style>"
)
TERMINAL = """<!doctype html><meta charset="utf-8">
<style>pre { margin: 16px; font: 14px/1.45 monospace; white-space: pre-wrap; width: 1150px }</style>
<pre>"""
# Lines that a person reads first; of the epochs, the first four and the last.
SHOWN = (
    "data set",
    "columns",
    "classes",
    "train ",
    "validation  ",
    "test ",
    "images",
    "machine",
    "model     my",
)
SHOWN += ("training ", "linear probe", "epoch", "validation accuracy", "exported")


def main() -> None:
    """Write `report.webp` and `terminal.webp`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("log", type=Path, help="what the run printed")
    arguments = parser.parse_args()
    page = (arguments.run / "report.html").read_text(encoding="utf-8")
    photograph(page.replace("</body>", f"{TOP}</body>"), PICTURES / "report.webp")
    lines = "\n".join(shown_lines(arguments.log.read_text(encoding="utf-8").splitlines()))
    photograph(TERMINAL + html.escape(f"$ {COMMAND}\n{lines}"), PICTURES / "terminal.webp")


def shown_lines(lines: list[str]) -> list[str]:
    """The lines of the log that the picture shows."""
    shown = [line for line in lines if line.startswith(SHOWN) or not line]
    epochs = [line for line in shown if line.startswith("epoch")]
    left_out = set(epochs[4:-1])
    return [
        line if line not in left_out else "…" for line in shown if line not in left_out or line == epochs[4]
    ]


def photograph(document: str, path: Path) -> None:
    """Write the picture of an HTML document, without the empty space below it."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as scratch:
        file, shot = Path(scratch) / "page.html", Path(scratch) / "shot.png"
        file.write_text(document, encoding="utf-8")
        subprocess.run(
            [
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--window-size={WIDTH},{TALLEST}", f"--screenshot={shot}", file.as_uri()),
            ],
            check=True,
            capture_output=True,
        )
        picture = Image.open(shot).convert("RGB")
    paper = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    found = ImageChops.difference(picture, paper).getbbox()
    assert found is not None
    picture.crop((0, 0, picture.width, min(picture.height, found[3] + MARGIN))).save(
        path, quality=82, method=6
    )
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
