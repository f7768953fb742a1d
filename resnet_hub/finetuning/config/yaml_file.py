"""The configuration of a run as a YAML file, and back."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from resnet_hub.errors import ConfigError, nearest
from resnet_hub.files import expanded
from resnet_hub.finetuning.config.options import FinetuneConfig
from resnet_hub.plain_yaml import MAX_YAML_BYTES, read_yaml

SHORT_NAMES = {"model": "model_name_or_path"}
"""Names that are as good as the field's own."""

# What timm's and transformers' scripts call them.
_NAMES_ELSEWHERE = {
    **dict.fromkeys(("lr", "base_lr", "rate"), "learning_rate"),
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("batch_size", "train_batch_size", "b"), "per_device_train_batch_size"),
    **dict.fromkeys(("eval_batch_size", "validation_batch_size"), "per_device_eval_batch_size"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("opt", "optim"), "optimizer"),
    **dict.fromkeys(("fp16", "bf16", "amp", "amp_dtype"), "mixed_precision"),
    **dict.fromkeys(("data_dir", "data", "train_folder"), "train_dir"),
    **dict.fromkeys(("val_dir", "valid_dir"), "validation_dir"),
    **dict.fromkeys(("dataset", "hf_dataset"), "dataset_name"),
    **dict.fromkeys(("img_size", "input_size", "resolution", "size"), "image_size"),
    **dict.fromkeys(("workers", "num_workers"), "dataloader_num_workers"),
    **dict.fromkeys(("warmup_epochs", "warmup_ratio", "warmup"), "warmup_steps"),
    "smoothing": "label_smoothing",
    "drop_path": "drop_path_rate",
    "aa": "auto_augment",
    "reprob": "random_erasing",
    "hflip": "horizontal_flip",
    **dict.fromkeys(("clip_grad", "gradient_clipping", "grad_clip"), "max_grad_norm"),
    **dict.fromkeys(("grad_accum_steps", "accumulation_steps"), "gradient_accumulation_steps"),
    "model_ema": "ema",
    "model_ema_decay": "ema_decay",
    **dict.fromkeys(("torchcompile", "compile"), "torch_compile"),
    "sync_bn": "sync_batchnorm",
    "resume_from_checkpoint": "resume",
    **dict.fromkeys(("output", "out", "out_dir"), "output_dir"),
    "max_steps": "max_train_steps",
    **dict.fromkeys(("patience", "early_stopping_patience"), "early_stopping_epochs"),
    **dict.fromkeys(("freeze", "freeze_layers"), "frozen_stages"),
    "teacher": "teacher_model",
}


_SHOWN = 80  # letters of a foreign value in a message


def nearest_option(name: str, known: Iterable[str]) -> str:
    """Half a sentence that helps with an unknown option: what it is called here, or what is spelt alike."""
    here = _NAMES_ELSEWHERE.get(name)
    return f"it is called {here} here." if here in set(known) else nearest(name, known)


def load_config(path: Path) -> dict[str, Any]:
    """Read the options of a YAML file; raises ConfigError for an unknown key or a value of the wrong type."""
    path = expanded(path)
    try:
        with path.open("rb") as file:
            values = read_yaml(file.read(MAX_YAML_BYTES + 1).decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file.{_other_configs(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not plain YAML
        raise ConfigError(f"--config {path} cannot be read as YAML: {error}") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"--config {path} has to hold `option: value` lines.")
    return options_from_mapping(values or {}, source=str(path))


_RECIPES = Path(__file__).with_name("recipes")
RECIPES = tuple(path.stem for path in sorted(_RECIPES.glob("*.yaml")))
"""Names for sets of options, each a file of the package with its command and its measured result."""


def load_recipe(name: str) -> dict[str, Any]:
    """Read the options of a recipe of the package; raises ConfigError for another name."""
    if name not in RECIPES:
        raise ConfigError(f"--recipe {name}: {nearest(name, RECIPES, shown=len(RECIPES))}")
    return load_config(_RECIPES / f"{name}.yaml")


def dump_config(config: FinetuneConfig) -> str:
    """YAML text of every option with its value."""
    return yaml.safe_dump(plain_values(config), sort_keys=False, allow_unicode=True)


def plain_values(config: FinetuneConfig) -> dict[str, Any]:
    """The options as values that JSON and YAML know."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}


def options_from_mapping(values: dict[str, Any], *, source: str) -> dict[str, Any]:
    """Check the keys and convert the values of a mapping to the types of the fields.

    YAML 1.1 reads `1e-3` as text, so numbers are converted by the type of the field and not by their looks.
    """
    types = get_type_hints(FinetuneConfig)
    options = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        name = SHORT_NAMES.get(name, name)
        if name not in types:
            close = nearest_option(name[:_SHOWN], types)
            raise ConfigError(f"{source} has an unknown option {repr(key)[:_SHOWN]}; {close}")
        options[name] = _convert(value, types[name], f"{source}: {name}")
    return options


def _convert(value: Any, wanted: Any, where: str) -> Any:
    choices = get_args(wanted)
    if get_origin(wanted) is Literal:
        # YAML 1.1 also reads a bare `no` or `yes` as a boolean.
        text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if text in choices:
            return text
        close = nearest(str(value)[:_SHOWN], choices, shown=len(choices))
        raise ConfigError(f"{where} is {repr(value)[:_SHOWN]}; {close}")
    if choices:  # X | None
        return None if value is None else _convert(value, choices[0], where)
    if wanted is bool and isinstance(value, bool):
        return value
    if (
        wanted in (int, float, str, Path)
        and not isinstance(value, bool | list | dict)
        and "\0" not in str(value)
    ):
        try:
            converted = wanted(value)
        except (ValueError, TypeError, OverflowError):  # OverflowError: of infinity, or of 400 digits
            pass
        else:
            if not (wanted is int and isinstance(value, float) and converted != value):
                return converted
    raise ConfigError(f"{where} is {repr(value)[:_SHOWN]}; it has to be of type {wanted.__name__}.")


def _other_configs(path: Path) -> str:
    found = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f" In that folder are: {', '.join(found)}." if found else ""
