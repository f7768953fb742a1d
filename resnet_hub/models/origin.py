"""Whose import makes timm know a model: what a card tells its readers, and what a Space can build."""

import json
from dataclasses import fields
from typing import Any, Literal

import timm

from resnet_hub.models.my_resnet import OWN, TIMM_LIKE, VARIANTS

Origin = Literal["timm", "resnet_hub", "user"]


def origin_of(architecture: str) -> Origin:
    """Whether timm has the model, this package brings it, or a module of somebody's own registers it.

    The name alone tells nothing: anybody may register `my_net`, or `tiny_net`.
    """
    if architecture in TIMM_LIKE | OWN:
        return "resnet_hub"
    is_timms = timm.is_model(architecture) and _module_of(architecture).startswith("timm.")
    return "timm" if is_timms else "user"


def registration_code(architecture: str) -> str | None:
    """The call that registers a user's variant, as Python; None where `register_variant` has not seen it."""
    if origin_of(architecture) != "user" or architecture not in VARIANTS:
        return None
    variant = VARIANTS[architecture]
    given = ((field.name, getattr(variant, field.name), field.default) for field in fields(variant))
    options = ", ".join(f"{name}={_literal(value)}" for name, value, default in given if value != default)
    return (
        f"resnet_hub.register_variant(\n    {_literal(architecture)},\n    resnet_hub.Variant({options}),\n)"
    )


def _module_of(architecture: str) -> str:
    return timm.model_entrypoint(architecture).__module__


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
