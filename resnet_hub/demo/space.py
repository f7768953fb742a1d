"""Write a complete Hub Space: the page, the model, the package and its requirements."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import SpaceCardData
from torch import nn

import resnet_hub
from resnet_hub.demo.about import About, about_model
from resnet_hub.downloads.download import CONFIG_FILE, WEIGHTS_FILE
from resnet_hub.errors import ModelError
from resnet_hub.files import atomic_folder, check_new_folder, expanded
from resnet_hub.hub.saving import save_folder
from resnet_hub.models.my_resnet import timm_twin
from resnet_hub.models.origin import origin_of
from resnet_hub.prediction.classify import class_names_of

_PYTHON = "3.12"
# gradio and huggingface_hub come with the Space's sdk_version.
_PINNED = ("torch", "torchvision", "timm", "safetensors", "jinja2", "pyyaml", "grad-cam")
_APP = '''"""The page of this Space: an image goes in, its most probable classes come out."""

import json
from pathlib import Path

import resnet_hub
from resnet_hub.demo.about import About
from resnet_hub.demo.page import LAUNCH_OPTIONS, build_page, theme

HERE = Path(__file__).parent
model = resnet_hub.load(HERE / "model")
about = About(**json.loads((HERE / "about.json").read_text(encoding="utf-8")))
demo = build_page(model, title={title!r}, examples=sorted((HERE / "examples").glob("*")), about=about)

if __name__ == "__main__":
    demo.launch(theme=theme(), **LAUNCH_OPTIONS)
'''


def write_space(
    model: nn.Module,
    folder: Path,
    *,
    title: str,
    examples: Sequence[Path] = (),
    about: About | None = None,
) -> Path:
    """Write the folder and give its path; it appears whole or not at all.

    The package goes along as source, since a Space installs its requirements before it has its files.

    Raises:
        ConfigError: the folder holds something.
        ModelError: the model cannot be built again in the Space.
    """
    folder = expanded(folder)
    check_new_folder(folder)
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    _refuse_own_variant(model, str(cfg.get("architecture") or ""))
    with atomic_folder(folder) as scratch:
        _copy_model(model, scratch / "model", license_id=cfg.get("license"))
        _copy_package(scratch / "resnet_hub")
        _copy_examples(examples, scratch / "examples")
        told = json.dumps(asdict(about or about_model(model)), indent=2, ensure_ascii=False)
        (scratch / "about.json").write_text(told, encoding="utf-8")
        (scratch / "app.py").write_text(_APP.format(title=title), encoding="utf-8")
        (scratch / "requirements.txt").write_text(_requirements(), encoding="utf-8")
        (scratch / "README.md").write_text(_readme(title, cfg.get("license")), encoding="utf-8")
    return folder


def _refuse_own_variant(model: nn.Module, architecture: str) -> None:
    # A variant of somebody's own that computes what a network of timm does is exported under timm's name.
    if architecture and origin_of(architecture) == "user" and timm_twin(model) is None:
        raise ModelError(
            f"{architecture} is a variant of your own, and a Space can build only networks of resnet_hub and "
            "timm. Leave out --space to show it on this machine."
        )


def _copy_model(model: nn.Module, folder: Path, *, license_id: str | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        saved = save_folder(
            model, Path(scratch) / "model", class_names=class_names_of(model), license_id=license_id
        )
        folder.mkdir()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(saved / name, folder / name)


def _copy_package(folder: Path) -> None:
    assert resnet_hub.__file__ is not None
    source = Path(resnet_hub.__file__).parent
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def _copy_examples(examples: Sequence[Path], folder: Path) -> None:
    if examples:
        folder.mkdir()
    for number, path in enumerate(map(expanded, examples)):
        shutil.copyfile(path, folder / f"{number:02d}{path.suffix.lower()}")


def _requirements() -> str:
    # A local part, as in 2.15.0+cpu, names a build that the registry need not have.
    lines = [f"{package}=={metadata.version(package).partition('+')[0]}" for package in _PINNED]
    return "\n".join(lines) + "\n"


def _readme(title: str, license_id: str | None) -> str:
    card = SpaceCardData(
        title=title,
        emoji="🖼️",
        colorFrom="blue",
        colorTo="green",
        sdk="gradio",
        sdk_version=metadata.version("gradio"),
        python_version=_PYTHON,
        app_file="app.py",
        pinned=False,
        license=license_id,
        tags=["image-classification", "resnet_hub"],
    )
    return (
        f"---\n{card.to_yaml()}\n---\n\n# {title}\n\nAn image goes in; its five most probable classes come "
        "out, with a Grad-CAM picture of what speaks for the first. `model/` holds the weights (safetensors) "
        "and what they mean, `resnet_hub/` the package that the page was written with.\n"
    )
