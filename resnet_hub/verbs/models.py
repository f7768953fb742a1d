"""`resnet-hub list`, `info` and `check`: what the family has, and whether a variant keeps its contract."""

import argparse
from typing import TYPE_CHECKING, Any

from resnet_hub.verbs.tables import print_record, print_rows

if TYPE_CHECKING:
    from resnet_hub.pretrained import Weights


def add_arguments_list(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub list`."""
    parser.add_argument("pattern", nargs="?", default="*", help="only these, such as '*50*' or my_resnext*")
    parser.add_argument("--pretrained", action="store_true", help="list published weights instead of models")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_list(arguments: argparse.Namespace) -> int:
    """Print the models, or their published weights, that match the pattern; 2 if none does."""
    import resnet_hub  # noqa: PLC0415  torch and timm only when the verb runs
    from resnet_hub.errors import ModelError, nearest  # noqa: PLC0415

    names = [name for name in resnet_hub.list_models() if _matches(name, arguments.pattern)]
    if not names:
        known = resnet_hub.list_models()
        raise ModelError(f"No model matches {arguments.pattern!r}; {nearest(arguments.pattern, known)}")
    if arguments.pretrained:
        rows = [_weights_row(name, weights) for name in names for weights in _published(name)]
    else:
        rows = [_model_row(name) for name in names]
    print_rows(rows, as_json=arguments.json, title="weights" if arguments.pretrained else "models")
    return 0


def add_arguments_info(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub info`."""
    parser.add_argument("model", help="a model, with or without a tag: my_resnet50, my_resnet50.a1_in1k")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--card", action="store_true", help="print the model card, as in model_cards/")


def run_info(arguments: argparse.Namespace) -> int:
    """Print what is known of one model and of the weights that its tag (or its default tag) names."""
    name, _, tag = arguments.model.partition(".")
    _refuse_unknown(arguments.model)
    if arguments.card:
        from resnet_hub.verbs.family_cards import variant_card  # noqa: PLC0415

        print(variant_card(name), end="")
        return 0
    published = _published(name)
    weights = next((row for row in published if row.tag == tag), published[0] if published else None)
    record = _model_row(name) | {"all_tags": [row.tag for row in published]}
    print_record(record | _weights_record(name, weights), as_json=arguments.json)
    return 0


def add_arguments_check(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resnet-hub check`."""
    parser.add_argument("model", help="the variant to check, such as my_resnet50 or one of your own")
    parser.add_argument(
        "--import",
        dest="module",
        metavar="MODULE",
        help="import this first: the module that registers your variant",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_check(arguments: argparse.Namespace) -> int:
    """Print a verdict for each part of the contract; 1 if one is broken."""
    from resnet_hub.conformance import check, import_variants  # noqa: PLC0415

    if arguments.module:
        import_variants(arguments.module)
    _refuse_unknown(arguments.model)
    verdicts = check(arguments.model)
    rows = [
        {"verdict": "ok" if v.passed else "FAILED", "check": v.name, "detail": v.detail} for v in verdicts
    ]
    print_rows(rows, as_json=arguments.json, title=arguments.model)
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatch  # noqa: PLC0415

    return fnmatch(name, pattern) or (pattern.isidentifier() and pattern in name)


def _refuse_unknown(model: str) -> None:
    import resnet_hub  # noqa: PLC0415
    from resnet_hub.errors import ModelError, nearest  # noqa: PLC0415

    name, _, tag = model.partition(".")
    if name not in (known := resnet_hub.list_models()):
        raise ModelError(f"There is no model {name!r}; {nearest(name, known)} See: resnet-hub list")
    tags = [weights.tag for weights in _published(name)]
    if tag and tag not in tags:
        raise ModelError(f"{name} has no weights {tag!r}; {nearest(tag, tags)} See: resnet-hub info {name}")


def _published(name: str) -> "list[Weights]":
    from resnet_hub.my_resnet import published_weights  # noqa: PLC0415

    return published_weights(name)


def _model_row(name: str) -> dict[str, Any]:
    import timm  # noqa: PLC0415

    from resnet_hub.my_resnet import timm_twin  # noqa: PLC0415

    model = timm.create_model(name, device="meta")
    published = _published(name)
    cfg: dict[str, Any] = model.pretrained_cfg  # pyright: ignore[reportAssignmentType]  set by timm
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": cfg["input_size"][-1],
        "features": model.num_features,
        "timm_twin": timm_twin(name),
        "default_weights": published[0].tag if published else None,
    }


def _weights_row(name: str, weights: "Weights") -> dict[str, Any]:
    return {
        "weights": f"{name}.{weights.tag}",
        "top1_percent": weights.top1,
        "top5_percent": weights.top5,
        "at_pixels": weights.accuracy_size,
        "trained_at_pixels": weights.train_size,
        "licence": weights.license,
        "commercial_use": weights.is_free,
    }


def _weights_record(name: str, weights: "Weights | None") -> dict[str, Any]:
    from resnet_hub.pretrained import ACCURACY_SOURCE  # noqa: PLC0415

    if weights is None:
        return {}
    return _weights_row(name, weights) | {
        "crop": weights.crop_pct,
        "crop_at_test": weights.accuracy_crop_pct,
        "interpolation": weights.interpolation,
        "mean": weights.mean,
        "std": weights.std,
        "classes": weights.num_classes,
        "repository": f"https://huggingface.co/{weights.repo_id}",
        "origin": weights.origin_url,
        "paper": weights.paper_ids,
        "accuracy_source": ACCURACY_SOURCE,
    }
