"""The card of a variant with published weights, rendered from the tables; `model_cards/` holds them."""

import inspect

import timm
from huggingface_hub import EvalResult, ModelCardData

from resnet_hub.errors import ModelError
from resnet_hub.model_card import card_template, with_front_matter
from resnet_hub.my_resnet import TIMM_LIKE, VARIANTS, published_weights, timm_twin
from resnet_hub.pretrained import ACCURACY_SOURCE, Weights


def variants_with_cards() -> list[str]:
    """Names of the variants that have published weights and so a card."""
    return [name for name in TIMM_LIKE if published_weights(name)]


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
    body = card_template("variant_card.md").render(
        name=name,
        description=inspect.getdoc(timm.model_entrypoint(name)),
        twin=timm_twin(name),
        variant=VARIANTS[name],
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_features=model.num_features,
        weights=published[0],
        published=published,
        bound=[f"`{weights.tag}`" for weights in published if not weights.is_free],
        accuracy_source=ACCURACY_SOURCE,
    )
    return with_front_matter(_metadata(name, published[0]), body)


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
