"""The card of a variant with published weights, rendered from the tables; `model_cards/` holds them."""

import inspect
from statistics import mean
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from resnet_hub.cards.model_card import card_template, with_front_matter
from resnet_hub.errors import ModelError
from resnet_hub.models.my_resnet import OWN, TIMM_LIKE, VARIANTS, published_weights, timm_twin
from resnet_hub.models.packaged_weights import record_of
from resnet_hub.models.published_weights import ACCURACY_SOURCE, Weights


def variants_with_cards() -> list[str]:
    """Names of the variants that have published weights and so a card."""
    return [name for name in TIMM_LIKE | OWN if published_weights(name)]


def variant_card(name: str) -> str:
    """The card of a variant and its default weights: metadata between lines of dashes, then Markdown.

    Raises:
        ModelError: The variant has no published weights; its card is written with the first that are trained.
    """
    published = published_weights(name)
    if not published:
        raise ModelError(
            f"{name} has no published weights, and so no card of its own; train it with recipes/finetune.py, "
            "which writes the card of the run."
        )
    model = timm.create_model(name, device="meta")
    facts = {
        "name": name,
        "description": inspect.getdoc(timm.model_entrypoint(name)),
        "variant": VARIANTS[name],
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_features": model.num_features,
        "weights": published[0],
    }
    if published[0].file:
        return _own_card(facts, name, published[0])
    body = card_template("variant_card.md").render(
        facts,
        twin=timm_twin(name),
        published=published,
        bound=[f"`{weights.tag}`" for weights in published if not weights.is_free],
        accuracy_source=ACCURACY_SOURCE,
    )
    return with_front_matter(_metadata(name, published[0]), body)


def _own_card(facts: dict[str, Any], name: str, weights: Weights) -> str:
    """The card of weights in the package, from the record beside them."""
    record = record_of(weights)
    made, measured = record["made"], record["measured"]
    rows = [
        {"images": images} | {way: _mean_and_range(values) for way, values in ways.items()}
        for images, ways in measured["accuracy_percent"].items()
    ]
    command = "python recipes/pretrain.py --output my_weights.safetensors " + " ".join(
        f"--{option} {value}" for option, value in made["options"].items()
    )
    body = card_template("own_weights_card.md").render(
        facts, made=made, measured=measured, rows=rows, command=command
    )
    metadata = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=weights.license,
        tags=["image-classification", "timm", "resnet", "resnet_hub"],
        model_name=f"{name}.{weights.tag}",
    )
    return with_front_matter(metadata, body)


def _mean_and_range(percents: list[float]) -> str:
    return f"{mean(percents):.2f} [{min(percents):.2f}, {max(percents):.2f}]"


def _metadata(name: str, weights: Weights) -> ModelCardData:
    accuracy = {"accuracy": weights.top1, "top-5 accuracy": weights.top5}
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=weights.license,
        base_model=weights.repo_id,
        datasets=["imagenet-1k"],
        tags=["image-classification", "timm", "resnet", "resnet_hub"],
        model_name=f"{name}.{weights.tag}",
        eval_results=[
            EvalResult(
                task_type="image-classification",
                dataset_type="imagenet-1k",
                dataset_name="ImageNet-1k",
                dataset_split="validation",
                metric_type="accuracy",
                metric_name=f"{title} at {weights.accuracy_size} px",
                metric_value=percent,
                source_name="timm",
                source_url=ACCURACY_SOURCE,
            )
            for title, percent in accuracy.items()
        ],
    )
