"""The flags of the fine-tuning command, made from the fields of FinetuneConfig by tyro."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from resnet_hub.errors import ConfigError
from resnet_hub.finetuning.config.options import FIELD_NAMES, FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import SHORT_NAMES, load_config, load_recipe, nearest_option

Recipe = Literal["quick", "balanced", "best", "rsb_a1", "rsb_a2", "rsb_a3", "torchvision_v2"]
_SYNTAX = (tyro.conf.UsePythonSyntaxForLiteralCollections,)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What was typed: a configuration, and what to do with it."""

    config: Path | None = None
    """YAML file of options, as a run's config.yaml; flags win over it."""
    recipe: Recipe | None = None
    """quick: fit a new fc on the frozen network; balanced, the defaults: that, then train the whole network;
    best: balanced for longer, small images first, stronger augmentation, and averaged weights. The others
    train a ResNet-50 on ImageNet from scratch."""
    dry_run: bool = False
    """Understand the data, build the model, say what would be done, and stop."""
    find_learning_rate: bool = False
    """Try rates on the run's first steps, write learning_rate.png and .json into output_dir, suggest one."""
    print_config: bool = False
    """Print the configuration as YAML and stop."""
    finetuning: Annotated[FinetuneConfig, tyro.conf.OmitArgPrefixes] = field(default_factory=FinetuneConfig)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """What a person reads about one flag."""

    spellings: tuple[str, ...]
    metavar: str | None
    """What kind of value it takes; None for a switch."""
    help: str


def parse_command_line(
    arguments: Sequence[str] | None = None,
    *,
    description: str | None = None,
    prog: str | None = None,
    kind: type[Command] = Command,
) -> Command:
    """Configuration from defaults, `--recipe`, `--config FILE` and flags, each winning over the one before.

    Raises ConfigError for an unknown flag (naming the nearest one), a bad value or a bad file; `--help`
    prints every flag and exits. A `kind` of command may have flags of its own.
    """
    typed = [_long_name(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    _refuse_unknown_flags(typed, kind)
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--recipe")
    early = first.parse_known_args(typed)[0]
    values = load_recipe(early.recipe) if early.recipe else {}
    options = FinetuneConfig(**values | (load_config(early.config) if early.config else {}))
    return tyro.cli(
        kind,
        args=typed,
        default=kind(config=early.config, recipe=early.recipe, finetuning=options),
        prog=prog,
        description=description,
        config=_SYNTAX,
        use_underscores=True,
    )


def list_flags(kind: type[Command] = Command) -> list[Flag]:
    """Every flag with its help, for those who list or complete them."""
    parser = tyro.extras.get_parser(kind, default=kind(), config=_SYNTAX, use_underscores=True)
    return [
        Flag(
            spellings=tuple(action.option_strings),
            metavar=None if action.metavar is None else re.sub(r"\{None\}\||None,", "", str(action.metavar)),
            help=(action.help or "").removesuffix("(default: None)").rstrip(),
        )
        for action in parser._actions
    ]


def _long_name(argument: str) -> str:
    """`--model x` and `--model=x` as `--model_name_or_path ...`, with `-` in flag names as `_`."""
    match = re.fullmatch(r"--([A-Za-z][\w-]*)(=.*)?", argument, flags=re.DOTALL)
    if not match:
        return argument
    name = match[1].replace("-", "_")
    name = name.replace("no_", "no-", 1) if name.startswith("no_") else name
    return "--" + SHORT_NAMES.get(name, name) + (match[2] or "")


def _refuse_unknown_flags(typed: Sequence[str], kind: type[Command]) -> None:
    known = {"help", *FIELD_NAMES, *(entry.name for entry in fields(kind))} - {"finetuning"}
    for argument in typed:
        if argument.startswith("--"):
            name = argument[2:].split("=", 1)[0].removeprefix("no-")
            if name not in known:
                raise ConfigError(
                    f"There is no flag --{name}; {nearest_option(name, known)} --help lists all flags."
                )
