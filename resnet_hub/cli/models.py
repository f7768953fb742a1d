"""`resnet-hub list` and `info`: what the family has."""

import argparse
from fnmatch import fnmatch
from typing import Any

import timm

from resnet_hub.cli.tables import print_record, print_rows
from resnet_hub.errors import ModelError, nearest
from resnet_hub.hub.describe import describe_model
from resnet_hub.models.my_resnet import list_models, published_weights, timm_twin
from resnet_hub.models.names import registry_name
from resnet_hub.models.published_weights import ACCURACY_SOURCE, Weights


def run_list(arguments: argparse.Namespace) -> int:
    """Print the models, or their published weights, that match the pattern; 2 if none does."""
    names = [name for name in list_models() if _matches(name, arguments.pattern)]
    if not names:
        known = list_models()
        raise ModelError(f"No model matches {arguments.pattern!r}; {nearest(arguments.pattern, known)}")
    if arguments.pretrained:
        rows = [_weights_row(name, weights) for name in names for weights in published_weights(name)]
    else:
        rows = [_model_row(name) for name in names]
    print_rows(rows, as_json=arguments.json, title="weights" if arguments.pretrained else "models")
    return 0


def run_info(arguments: argparse.Namespace) -> int:
    """Print what is known of one model and of the weights that its tag (or its default tag) names.

    Of a folder or a repository on the Hub, what its files say.
    """
    if registry_name(arguments.model) is None:
        print_record(describe_model(arguments.model), as_json=arguments.json)
        return 0
    name, _, tag = arguments.model.partition(".")
    refuse_unknown(arguments.model)
    published = published_weights(name)
    weights = next((row for row in published if row.tag == tag), published[0] if published else None)
    record = _model_row(name) | {"all_tags": [row.tag for row in published]}
    print_record(record | _weights_record(name, weights), as_json=arguments.json)
    return 0


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or (pattern.isidentifier() and pattern in name)


def refuse_unknown(model: str) -> None:
    """Raise ModelError, naming the nearest, for a model or a tag that the family does not have."""
    name = model.partition(".")[0]
    if name not in (known := list_models()):
        raise ModelError(f"There is no model {name!r}; {nearest(name, known)} See: resnet-hub list")
    registry_name(model)  # refuses an unknown tag


def _model_row(name: str) -> dict[str, Any]:
    model = timm.create_model(name, device="meta")
    published = published_weights(name)
    cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]  set by timm
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": cfg["input_size"][-1],
        "features": model.num_features,
        "timm_twin": timm_twin(name),
        "default_weights": published[0].tag if published else None,
    }


def _weights_row(name: str, weights: Weights) -> dict[str, Any]:
    return {
        "weights": f"{name}.{weights.tag}",
        "top1_percent": weights.top1,
        "top5_percent": weights.top5,
        "at_pixels": weights.accuracy_size,
        "trained_at_pixels": weights.train_size,
        "source": weights.repo_id or "in the package",
        "licence": weights.license,
        "commercial_use": weights.is_free,
    }


def _weights_record(name: str, weights: Weights | None) -> dict[str, Any]:
    if weights is None:
        return {}
    return _weights_row(name, weights) | {
        "crop": weights.crop_pct,
        "crop_at_test": weights.accuracy_crop_pct,
        "interpolation": weights.interpolation,
        "mean": weights.mean,
        "std": weights.std,
        "classes": weights.num_classes,
        "repository": weights.repo_id and f"https://huggingface.co/{weights.repo_id}",
        "origin": weights.origin_url,
        "paper": weights.paper_ids,
        "accuracy_source": weights.repo_id and ACCURACY_SOURCE,
    }
