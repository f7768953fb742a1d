"""What a model folder or a repository on the Hub holds, told without its weights."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from resnet_hub.downloads.access import asking
from resnet_hub.downloads.download import CONFIG_FILE, PICKLES, WEIGHTS_FILE, fetch, pin
from resnet_hub.errors import UserError
from resnet_hub.hub.config_file import ModelConfig, read_config
from resnet_hub.hub.loading import build_empty, refuse_file
from resnet_hub.hub.saving import REPORT_FILE
from resnet_hub.models.names import hub_repository, local_folder
from resnet_hub.results import RunReport

_SHOWN_NAMES = 10


def describe_model(source: str | Path) -> dict[str, Any]:
    """Network, classes, preprocessing, license and scores of a folder, a run, or `user/repo[@revision]`.

    Of a repository config.json and report.json are fetched, and the sizes of the files asked for.

    Raises:
        HubError: there is nothing of the kind, or its config.json cannot be trusted.
    """
    folder = local_folder(source)
    return _of_repository(source) if folder is None else _of_folder(folder, source=str(source))


def _of_folder(folder: Path, *, source: str) -> dict[str, Any]:
    config = read_config(folder / CONFIG_FILE, source=source)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    report = folder / REPORT_FILE
    return {"model": source} | _record(config, sizes, report if report.is_file() else None, source=source)


def _of_repository(source: str | Path) -> dict[str, Any]:
    refuse_file(source)
    repo_id, revision = hub_repository(source)
    pinned = pin(repo_id, revision=revision)
    config = read_config(fetch(pinned, CONFIG_FILE).path, source=repo_id)
    head: dict[str, Any] = {"model": repo_id, "commit": pinned.commit}
    if not pinned.online:
        return head | _record(config, {}, None, source=repo_id)
    info = asking(
        lambda: HfApi().model_info(repo_id, revision=pinned.commit, files_metadata=True), repo_id=repo_id
    )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    report = fetch(pinned, REPORT_FILE).path if REPORT_FILE in sizes else None
    head |= {"private": info.private, "address": f"{HfApi().endpoint}/{repo_id}"}
    return head | _record(config, sizes, report, source=repo_id)


def _record(
    config: ModelConfig, sizes: dict[str, int], report: Path | None, *, source: str
) -> dict[str, Any]:
    cfg, names = config.pretrained_cfg, config.label_names or ()
    network = build_empty(config, source=source)
    more = [f"and {len(names) - _SHOWN_NAMES} more"] if len(names) > _SHOWN_NAMES else []
    return {
        "network": config.architecture,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "classes": config.num_classes,
        "class_names": [*names[:_SHOWN_NAMES], *more] or None,
        "multi_label": config.extra.get("multi_label") is True,
        "image_size": cfg["input_size"][-1],
        "crop": cfg.get("crop_pct"),
        "interpolation": cfg.get("interpolation"),
        "license": config.license_id,
        "base_model": config.extra.get("base_model"),
        "dataset": config.extra.get("dataset"),
        **_scores(report),
        "weights": _weights(sizes),
    }


def _scores(path: Path | None) -> dict[str, Any]:
    """Accuracy of each split that the report has a score of; nothing of a report that cannot be read."""
    if path is None:
        return {}
    try:
        report = RunReport.load(path)
    except UserError:  # somebody else's file of that name
        return {}
    scores = {"validation": report.validation, "test": report.test}
    return {f"{split}_accuracy": round(score.accuracy, 6) for split, score in scores.items() if score}


def _weights(sizes: dict[str, int]) -> str | None:
    if not sizes:
        return None
    if WEIGHTS_FILE in sizes:
        return f"{WEIGHTS_FILE}, {sizes[WEIGHTS_FILE] / 1e6:.1f} MB"
    pickles = sorted(name for name in sizes if name.endswith(PICKLES))
    return f"a pickle only ({pickles[0]}), which is never read" if pickles else "none"
