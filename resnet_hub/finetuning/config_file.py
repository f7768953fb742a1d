"""The configuration of a run as a YAML file, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from resnet_hub.errors import ConfigError, nearest
from resnet_hub.finetuning.config import FinetuneConfig


def load_config(path: Path) -> dict[str, Any]:
    """Read the options of a YAML file; raises ConfigError for an unknown key or a value of the wrong type."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file.{_other_configs(path)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path} cannot be read as YAML: {error}") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"--config {path} has to hold `option: value` lines.")
    return options_from_mapping(values or {}, source=str(path))


def save_config(config: FinetuneConfig, path: Path) -> None:
    """Write every option with its value; `--config` takes the file back."""
    path.write_text(dump_config(config), encoding="utf-8")


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
        if name not in types:
            raise ConfigError(f"{source} has an unknown option {key!r}; {nearest(name, types)}")
        options[name] = _convert(value, types[name], f"{source}: {name}")
    return options


def _convert(value: Any, wanted: Any, where: str) -> Any:
    choices = get_args(wanted)
    if get_origin(wanted) is Literal:
        # YAML 1.1 also reads a bare `no` or `yes` as a boolean.
        text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        if text in choices:
            return text
        raise ConfigError(f"{where} is {value!r}; {nearest(str(value), choices, shown=len(choices))}")
    if choices:  # X | None
        return None if value is None else _convert(value, choices[0], where)
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted in (int, float, str, Path) and not isinstance(value, bool | list | dict) and value is not None:
        try:
            converted = wanted(value)
        except ValueError:
            pass
        else:
            if not (wanted is int and isinstance(value, float) and converted != value):
                return converted
    raise ConfigError(f"{where} is {value!r}; it has to be of type {wanted.__name__}.")


def _other_configs(path: Path) -> str:
    found = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f" In that folder are: {', '.join(found)}." if found else ""
