"""Model folders: what a run exports and the Hub gets. timm, transformers and this package all load them."""

import copy
import json
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from torch import nn

from resnet_hub.cards.edits import with_edits
from resnet_hub.cards.model_card import (
    CardFacts,
    eval_results_file,
    package_version,
    public_report,
    render_card,
)
from resnet_hub.downloads.download import CONFIG_FILE, WEIGHTS_FILE
from resnet_hub.errors import HubError, ModelError, some_of
from resnet_hub.files import atomic_folder, expanded, write_atomically
from resnet_hub.hub.config_file import OUR_KEY, TRAIN_SIZE, read_config, set_license, write_config
from resnet_hub.hub.loading import load_files
from resnet_hub.hub.weights import SUM_KEY, tensor_shapes, unwrap, write_weights
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.models.my_resnet import VARIANTS
from resnet_hub.results import RunReport

CARD_FILE = "README.md"
REPORT_FILE = "report.json"
FIGURES_FOLDER = "figures"
CARD_BASE_FILE = ".resnet_hub/card.md"
"""The card as it was generated. What differs from it in README.md was written by a person and is kept."""

_OURS = re.compile(
    r"model\.safetensors|config\.json|README\.md|report\.json|figures/(\d{2,}-[A-Za-z0-9-]*\.(png|jpe?g))?"
    r"|\.resnet_hub/(card\.md)?|\.eval_results/([a-z0-9.-]+\.yaml)?"
    r"|\.DS_Store|Thumbs\.db|desktop\.ini"  # which file browsers leave wherever somebody looks
)
"""What may be in a folder that is written over; folders end in a slash."""

_LICENSE_KEYS = ("license", "license_name", "license_link")
_IMAGE_HEADS = {".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff"}


def save_folder(
    model: nn.Module,
    folder: Path | str,
    *,
    class_names: Sequence[str],
    report: RunReport | None = None,
    figures: Mapping[str, Path] | None = None,
    license_id: str | None = None,
    overwrite: bool = False,
    preprocessing: Preprocessing | None = None,
    train_image_size: int | None = None,
) -> Path:
    """Write a model folder and give its path; it appears whole or not at all.

    It holds model.safetensors, config.json and README.md (the card), with a report also report.json, the
    figures and the Hub's evaluation file. A network that timm has too is written under timm's name, so that
    timm and transformers load it where resnet_hub is not installed. What was written is read back and
    compared before the folder gets its name.

    Args:
        model: the network, in whatever wrapping (DDP, compile, EMA), memory format or precision.
        folder: where to write; the folder above it has to exist or is made.
        class_names: one name for each output, in their order.
        report: the run that is claimed in the card.
        figures: title in the card -> image file (PNG, JPEG), in the order of the card.
        license_id: license of these weights; by default that of the weights which training started from.
        overwrite: replace a model folder that exists; edits of its card are kept. A folder that holds
            anything else is refused all the same.
        preprocessing: how images were prepared in evaluation. Default: as the model's `pretrained_cfg` says.
        train_image_size: height and width of training images in pixels. Default: that of `pretrained_cfg`.

    Raises:
        HubError: the folder exists and `overwrite` is not set, or it holds what is not ours to remove, or
            what was written does not read back the same.
        ModelError: the model is not one of timm's kind, has another number of outputs than `class_names`, or
            has weights that are not finite.
    """
    folder, network = expanded(folder), unwrap(model)
    _refuse_bad_request(network, folder, class_names=class_names, report=report, overwrite=overwrite)
    public = None if report is None else public_report(report)
    base_model = None if public is None else public.base_model
    with atomic_folder(folder, overwrite=overwrite) as scratch:
        sha256 = write_weights(network, scratch)
        write_config(
            network,
            scratch,
            class_names=class_names,
            license_id=license_id or (None if report is None else report.base_license),
            preprocessing=preprocessing,
            extra={
                "version": package_version(),
                SUM_KEY: sha256,
                "base_model": base_model,
                "dataset": None if public is None else public.dataset,
                "dataset_revision": None if public is None else public.dataset_revision,
                "multi_label": None if public is None else public.multi_label,
                TRAIN_SIZE: _train_input_size(network, train_image_size),
            },
        )
        _copy_figures({title: expanded(path) for title, path in (figures or {}).items()}, scratch)
        if public is not None:
            public.save(scratch / REPORT_FILE)
            _write_eval_results(public, scratch)
        refresh_card(scratch, repo_id=None, edits_in=folder)
        _check_reads_back(network, scratch)
    return folder


def _train_input_size(model: nn.Module, image_size: int | None) -> list[int]:
    """Channels, height and width of training images, which are often smaller than those of evaluation."""
    channels, *size = _timm_cfg(model)["input_size"]
    return [channels, *(size if image_size is None else (image_size, image_size))]


def generated_card(folder: Path, *, repo_id: str | None, license_id: str | None = None) -> str:
    """The card of the folder as its files have it, or with another license, without anybody's edits."""
    folder = expanded(folder)
    report_file = folder / REPORT_FILE
    report = RunReport.load(report_file) if report_file.is_file() else None
    facts = card_facts(folder, repo_id=repo_id)
    return render_card(report, facts if license_id is None else replace(facts, license_id=license_id))


def current_card(folder: Path, *, repo_id: str | None, license_id: str | None = None) -> str:
    """The card of the folder as its files have it now, with the edits that somebody made in its README.md."""
    fresh = generated_card(folder, repo_id=repo_id, license_id=license_id)
    return with_own_edits(fresh, folder=expanded(folder), settled=_LICENSE_KEYS if license_id else ())


def with_own_edits(fresh: str, *, folder: Path, settled: Collection[str] = ()) -> str:
    """The generated card with the edits that somebody made in the README.md of the folder."""
    card, base = folder / CARD_FILE, folder / CARD_BASE_FILE
    if not card.is_file():
        return fresh
    try:
        edited = card.read_text(encoding="utf-8")
        generated = base.read_text(encoding="utf-8") if base.is_file() else None
    except UnicodeDecodeError as error:
        raise HubError(f"The {CARD_FILE} of {folder} is not UTF-8 ({error}). Save it as such.") from error
    return with_edits(fresh, edited=edited, generated=generated, source=str(folder), settled=settled)


def refresh_card(
    folder: Path, *, repo_id: str | None, edits_in: Path | None = None, license_id: str | None = None
) -> Path:
    """Write the folder's README.md again from its files, edits kept, and give its path.

    `edits_in` is the folder whose README.md has the edits, if that is another one. A license is written into
    config.json too, and goes before one that somebody wrote into the card.
    """
    folder = expanded(folder)
    if license_id is not None:
        set_license(folder, license_id)
    fresh = generated_card(folder, repo_id=repo_id)
    settled = _LICENSE_KEYS if license_id else ()
    card = with_own_edits(fresh, folder=expanded(edits_in or folder), settled=settled)
    write_atomically(folder / CARD_BASE_FILE, fresh)
    write_atomically(folder / CARD_FILE, card)
    return folder / CARD_FILE


def card_facts(folder: Path, *, repo_id: str | None) -> CardFacts:
    """What the folder's files say of the model."""
    config = read_config(folder / CONFIG_FILE, source=str(folder))
    cfg = config.pretrained_cfg
    named = config.extra.get("variant", config.architecture)  # it need not be registered here
    shapes = tensor_shapes(folder / WEIGHTS_FILE, source=str(folder))
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return CardFacts(
        repo_id=repo_id,
        variant=config.architecture if config.architecture in VARIANTS else str(named),
        architecture=json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["architecture"],
        num_parameters=sum(
            torch.Size(shape).numel() for name, shape in shapes.items() if not name.endswith(statistics)
        ),
        class_names=config.label_names or (),
        input_size=cfg["input_size"],
        crop_pct=cfg["crop_pct"],
        interpolation=cfg["interpolation"],
        mean=cfg["mean"],
        std=cfg["std"],
        license_id=config.license_id,
        base_model=config.extra.get("base_model"),
        figures=_figures_of(folder),
    )


def _refuse_bad_request(
    network: nn.Module,
    folder: Path,
    *,
    class_names: Sequence[str],
    report: RunReport | None,
    overwrite: bool,
) -> None:
    _refuse_to_lose_files(folder, overwrite=overwrite)
    if "architecture" not in _timm_cfg(network):
        raise ModelError(
            f"A {type(network).__name__} without timm's pretrained_cfg cannot be exported: nobody could "
            f"tell how to "
            "build it again. Make the model with timm.create_model or resnet_hub.create_model."
        )
    outputs = getattr(network, "num_classes", len(class_names))
    if outputs != len(class_names):
        raise ModelError(
            f"The model has {outputs} outputs, and {len(class_names)} class names were given. "
            "One name for each output is needed, in their order."
        )
    if report is not None and tuple(report.class_names) != tuple(class_names):
        raise ModelError("The class names of the report are not those that were given, or in another order.")


def _refuse_to_lose_files(folder: Path, *, overwrite: bool) -> None:
    """HubError unless the folder is not there, is empty, or may be written over and has only our files."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise HubError(
            f"{folder} exists already and is not written over. Name another folder, or pass overwrite=True."
        )
    if not folder.is_dir() or not _is_model_folder(folder):
        raise HubError(
            f"{folder} exists and is not a model folder of resnet_hub (those have a {CONFIG_FILE} with the "
            f"key {OUR_KEY!r}), so not even overwrite=True replaces it. Name another folder, or remove "
            f"this one."
        )
    if foreign := _foreign_names(folder):
        raise HubError(
            f"{folder} is not written over: it holds what save_folder did not write and would remove: "
            f"{some_of(foreign)}. Move that elsewhere and repeat, or save into another folder; to update a "
            f"clone of a Hub repository, save into a new folder and publish it with `resnet-hub push`."
        )


def _is_model_folder(folder: Path) -> bool:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and OUR_KEY in config


def _foreign_names(folder: Path) -> list[str]:
    """What the folder holds beside the files that save_folder writes; of a foreign folder only its name."""
    foreign: list[Path] = []
    for path in sorted(folder.iterdir()):
        if not _is_ours(path, folder):
            foreign.append(path)
        elif path.is_dir():
            foreign += sorted(entry for entry in path.iterdir() if not _is_ours(entry, folder))
    return [path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in foreign]


def _is_ours(path: Path, folder: Path) -> bool:
    name = path.relative_to(folder).as_posix() + "/" * path.is_dir()
    return not path.is_symlink() and _OURS.fullmatch(name) is not None  # save_folder makes no links


def _timm_cfg(network: nn.Module) -> dict[str, Any]:
    cfg = getattr(network, "pretrained_cfg", None)
    return cfg if isinstance(cfg, dict) else {}


def _copy_figures(figures: Mapping[str, Path], folder: Path) -> None:
    """Copy the images under names that say place and title; HubError for what is not an image."""
    for place, (title, path) in enumerate(figures.items(), start=1):
        head = _IMAGE_HEADS.get(path.suffix.lower())
        if head is None or not path.is_file() or not path.read_bytes().startswith(head):
            raise HubError(f"The figure {title!r} is not an image: {path}. PNG and JPEG files are taken.")
        (folder / FIGURES_FOLDER).mkdir(exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")[:80]
        shutil.copyfile(path, folder / FIGURES_FOLDER / f"{place:02d}-{name}{path.suffix.lower()}")


def _figures_of(folder: Path) -> tuple[tuple[str, str], ...]:
    """Title and path of every figure that the folder has, in the order of the card."""
    paths = sorted(path for path in (folder / FIGURES_FOLDER).glob("*") if path.suffix in _IMAGE_HEADS)
    return tuple((path.stem[3:].replace("-", " "), f"{FIGURES_FOLDER}/{path.name}") for path in paths)


def _write_eval_results(report: RunReport, folder: Path) -> None:
    if (found := eval_results_file(report)) is None:
        return
    name, entries = found
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _check_reads_back(network: nn.Module, folder: Path) -> None:
    """Load the folder as plain timm does, and as resnet_hub does, and compare what the models answer.

    A strict load is no proof: a ResNet with blur pooling takes the weights of a plain one and computes
    something else, so the answers are compared too. The two build it by different names.
    """
    config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    variant = config[OUR_KEY]["variant"]
    readers: dict[str, Callable[[], nn.Module]] = {
        f"timm's {config['architecture']!r}": lambda: timm.create_model(
            f"local-dir:{folder}", pretrained=True
        ).eval(),
        f"resnet_hub's {variant!r}": lambda: (
            load_files(folder / CONFIG_FILE, folder / WEIGHTS_FILE, source="what was written").model
        ),
    }
    expected = answers(network)
    slack = 1e-4 * float(expected.abs().max().clamp(min=1))
    for reader, read in readers.items():
        found = answers(read())
        if not torch.allclose(expected, found, rtol=1e-3, atol=slack):
            raise HubError(
                f"What was written is not the model that was given: read as {reader} it answers differently "
                f"(by up to {float((expected - found).abs().max()):.3g}). Nothing was saved; this is a fault "
                f"of resnet_hub's {variant!r}, please report it."
            )


def answers(network: nn.Module) -> torch.Tensor:
    """What a float32 copy of the network on the CPU answers to two fixed images."""
    channels = getattr(network, "in_chans", 3)
    images = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return copy.deepcopy(network).cpu().float().eval()(images)
