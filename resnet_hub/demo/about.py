"""What the page tells of its model: name, score and card."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from torch import nn

from resnet_hub.downloads.download import fetch, pin
from resnet_hub.errors import UserError
from resnet_hub.hub.saving import REPORT_FILE
from resnet_hub.models.my_resnet import published_weights
from resnet_hub.models.names import local_folder
from resnet_hub.results import RunReport

_CARD_FILE = "README.md"
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_MARKUP = re.compile(r"<(?!/?(details|summary)>)")


@dataclass(frozen=True, kw_only=True)
class About:
    """Name, score and card of a model; JSON of it goes along in a Space."""

    name: str
    score: str | None = None
    """A sentence; None where no score is known."""
    card: str = ""
    """Markdown without pictures and markup, so that showing it fetches nothing."""
    card_url: str | None = None
    """Where the card is on the Hub."""


def about_model(model: nn.Module, source: str | Path = "") -> About:
    """What the folder, the Hub or timm's table has on a model that was opened by the name `source`."""
    cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    architecture = str(cfg.get("architecture") or type(model).__name__)
    folder = local_folder(source) if source else None
    repo_id, _, commit = ("" if folder else str(cfg.get("hf_hub_id") or "")).partition("@")
    report = _report(folder, repo_id, commit)
    card = folder / _CARD_FILE if folder else None
    return About(
        name=report.model if report else architecture,
        score=_score(report) if report else _published_score(architecture, cfg),
        card=_harmless(card.read_text(encoding="utf-8")) if card and card.is_file() else "",
        card_url=f"https://huggingface.co/{repo_id}" if repo_id else None,
    )


def _report(folder: Path | None, repo_id: str, commit: str) -> RunReport | None:
    try:
        if folder is not None:
            return RunReport.load(folder / REPORT_FILE)
        return RunReport.load(fetch(pin(repo_id, revision=commit), REPORT_FILE).path) if commit else None
    except UserError:  # there is none, or it cannot be had or read: the page works without
        return None


def _score(report: RunReport) -> str | None:
    split, score = ("test", report.test) if report.test else ("validation", report.validation)
    if score is None:
        return None
    low, high = score.accuracy_interval_95
    return (
        f"accuracy {score.accuracy:.2%} on {score.num_images:,} {split} images "
        f"(95 % interval {low:.2%} to {high:.2%}), macro F1 {score.macro_f1:.4f}"
    )


def _published_score(name: str, cfg: dict[str, Any]) -> str | None:
    found = [row for row in published_weights(name) if row.tag == cfg.get("tag") and row.top1 is not None]
    return f"top-1 accuracy {found[0].top1} % on ImageNet-1k, as timm measured it" if found else None


def _harmless(card: str) -> str:
    text = ModelCard(card, ignore_metadata_errors=True).text
    return _MARKUP.sub("&lt;", _IMAGE.sub("", text).replace("![", "[")).strip()
