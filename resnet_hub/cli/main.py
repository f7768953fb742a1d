"""The command `resnet-hub`: a table of verbs, each in a module that is imported when its verb is typed."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from resnet_hub.errors import RunError, UserError, nearest

SHELLS = ("bash", "zsh")
EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A row of the table: a word, what it is for, and where it is."""

    name: str
    module: str
    """It has `run_<name>(arguments) -> int`, and may import torch."""
    flags: str = ""
    """It has `add_arguments_<name>(parser)` and imports nothing heavy; the same module if not given."""
    help: str
    extra: str = ""
    """Extra of the package that it needs."""
    parses_itself: bool = False
    """Its module has `run_<name>(words) -> int` and `parser_<name>()` instead, and is light."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Give the parser the verb's flags."""
        getattr(import_module(self.flags or self.module), f"add_arguments_{self.name}")(parser)

    def run(self, arguments: argparse.Namespace | list[str]) -> int:
        """Carry it out; gives the exit code."""
        run: Callable[..., int] = getattr(import_module(self.module), f"run_{self.name}")
        return run(arguments)


_CHECK, _HUB, _MODELS = "resnet_hub.cli.check", "resnet_hub.cli.hub", "resnet_hub.cli.models"
_HUB_FLAGS, _MODELS_FLAGS = f"{_HUB}_flags", f"{_MODELS}_flags"
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            name="list",
            module=_MODELS,
            flags=_MODELS_FLAGS,
            help="models of the family or their published weights",
        ),
        Verb(
            name="info",
            module=_MODELS,
            flags=_MODELS_FLAGS,
            help="one model: size, input, licence, accuracy, source",
        ),
        Verb(
            name="check",
            module=_CHECK,
            flags=_MODELS_FLAGS,
            help="does a variant keep the family's contract?",
        ),
        Verb(
            name="finetune",
            module="resnet_hub.cli.finetune",
            help="fine-tune a model on your images, on all devices of this machine",
            extra="finetune",
            parses_itself=True,
        ),
        Verb(
            name="validate",
            module="resnet_hub.cli.validate",
            flags="resnet_hub.cli.validate_flags",
            help="score a trained model on any split of any data set",
            extra="finetune",
        ),
        Verb(
            name="predict",
            module="resnet_hub.cli.predict",
            flags="resnet_hub.cli.predict_flags",
            help="images to labels, on the terminal or into a table",
            extra="predict",
        ),
        Verb(
            name="download",
            module=_HUB,
            flags=_HUB_FLAGS,
            help="a model of the Hub into a folder, verified",
        ),
        Verb(name="card", module=_HUB, flags=_HUB_FLAGS, help="print the card of a folder, run or variant"),
        Verb(
            name="compare",
            module="resnet_hub.cli.compare",
            flags="resnet_hub.cli.compare_flags",
            help="finished runs side by side, and whether they differ by more than luck",
        ),
        Verb(name="push", module=_HUB, flags=_HUB_FLAGS, help="publish a model folder on the Hub"),
        Verb(
            name="export",
            module="resnet_hub.cli.export",
            flags="resnet_hub.cli.export_flags",
            help="ONNX and torch.export files, each compared with the model",
            extra="export",
        ),
        Verb(
            name="demo",
            module="resnet_hub.cli.demo",
            flags="resnet_hub.cli.demo_flags",
            help="a page on which people try a model, here or as a Space",
        ),
    )
}


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is an exception, so that it reaches the user like any other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See: {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the command line: 0 done, 2 bad input (with a message on stderr), 1 a failure."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except (UserError, RunError) as error:
        print(f"resnet-hub: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_FAILED
    except BrokenPipeError:  # `resnet-hub list | head`
        sys.stderr.close()
        return EXIT_OK


def _run(given: list[str]) -> int:
    asked = next((word for word in given if not word.startswith("-")), None)
    if given and given[0].replace("-", "_").startswith("__print_completion"):
        asked = None  # the word after it is a shell
    if asked is not None and asked not in VERBS:
        raise UserError(f"There is no verb {asked!r}; {nearest(asked, VERBS, shown=len(VERBS))}")
    parser, verb_parsers = _parsers()
    if asked is None:
        words = [_as_declared(word, parser) for word in given]
        parsed, unknown = parser.parse_known_args(words)  # --help and --version end here
        _refuse_unknown(unknown, parser)
        if parsed.print_completion:
            return _print_completion(parsed.print_completion)
        parser.print_help()
        return EXIT_OK
    verb = VERBS[asked]
    try:
        return _run_verb(verb, given, parser, verb_parsers[asked])
    except ModuleNotFoundError as error:
        if not verb.extra or (error.name or "").startswith("resnet_hub"):
            raise
        raise UserError(
            f"resnet-hub {asked} needs {error.name}, which is not installed. Type: "
            f'pip install "resnet_hub[{verb.extra}]"'
        ) from error


def _run_verb(
    verb: Verb, given: list[str], parser: argparse.ArgumentParser, verb_parser: argparse.ArgumentParser
) -> int:
    if verb.parses_itself:
        return verb.run(given[given.index(verb.name) + 1 :])
    verb.add_arguments(verb_parser)
    parsed, unknown = parser.parse_known_args([_as_declared(word, verb_parser) for word in given])
    _refuse_unknown(unknown, verb_parser)
    return verb.run(parsed)


def full_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser with the flags of all verbs, and that of each verb: for completion and the page of flags."""
    parser, subparsers = _main_parser()
    verb_parsers = {}
    for verb in VERBS.values():
        if verb.parses_itself:
            parent = getattr(import_module(verb.module), f"parser_{verb.name}")()
            verb_parsers[verb.name] = subparsers.add_parser(
                verb.name, help=verb.help, parents=[parent], add_help=False
            )
        else:
            verb_parsers[verb.name] = subparsers.add_parser(verb.name, help=verb.help)
            verb.add_arguments(verb_parsers[verb.name])
    return parser, verb_parsers


def _print_completion(shell: str) -> int:
    """Print what makes the shell complete verbs, flags and files."""
    import shtab  # noqa: PLC0415  only here

    parser, verb_parsers = full_parsers()
    for verb_parser in verb_parsers.values():
        for action in verb_parser._actions:
            is_text = action.nargs != 0 and not action.choices
            if is_text and (not action.option_strings or action.type is Path or action.metavar == "PATH"):
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]  read by shtab
    print(shtab.complete(parser, shell=shell))
    return EXIT_OK


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser, subparsers = _main_parser()
    return parser, {
        verb.name: subparsers.add_parser(
            verb.name, help=verb.help, description=f"{verb.help.capitalize()}.", allow_abbrev=False
        )
        for verb in VERBS.values()
    }


def _main_parser() -> tuple[argparse.ArgumentParser, Any]:
    description = "A family of ResNets for timm and the Hugging Face Hub."
    parser = _Parser(prog="resnet-hub", description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"resnet_hub {version('resnet_hub')}")
    parser.add_argument(
        "--print_completion",
        choices=SHELLS,
        help='completion of verbs and flags: eval "$(resnet-hub --print_completion bash)"',
    )
    return parser, parser.add_subparsers(title="verbs", metavar="VERB")


def _as_declared(word: str, parser: argparse.ArgumentParser) -> str:
    """The word as it is, or a flag with `-` and `_` where the parser has them, which are the same."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    same = {name.replace("_", "-"): name for name in _flags(parser)}
    return same.get(flag.replace("_", "-"), flag) + equals + value


def _refuse_unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    if words:
        raise UserError(f"{parser.prog} does not take {words[0]!r}; {nearest(words[0], _flags(parser))}")


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [flag for flag in parser._option_string_actions if flag.startswith("--")]


if __name__ == "__main__":
    sys.exit(main())
