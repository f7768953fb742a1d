"""The command `resnet-hub`: a table of verbs, each in a module that is imported when its verb is typed."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from resnet_hub.errors import UserError, nearest

EXIT_OK, EXIT_BAD_INPUT = 0, 2


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A row of the table; `module` has `add_arguments_<name>(parser)` and `run_<name>(arguments) -> int`."""

    name: str
    module: str
    help: str


_MODELS, _HUB = "resnet_hub.verbs.models", "resnet_hub.verbs.hub"
VERBS = {
    verb.name: verb
    for verb in (
        Verb(name="list", module=_MODELS, help="models of the family or their published weights"),
        Verb(name="info", module=_MODELS, help="one model: size, input, licence, accuracy, source"),
        Verb(name="check", module=_MODELS, help="does a variant keep the family's contract?"),
        Verb(name="download", module=_HUB, help="a model of the Hub into a folder, verified"),
        Verb(name="card", module=_HUB, help="print the card of a model folder or a run"),
        Verb(name="push", module=_HUB, help="publish a model folder on the Hub"),
    )
}


class _Parser(argparse.ArgumentParser):
    """argparse, but an error is an exception, so that it reaches the user like any other."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See: {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the command line: 0 done, 2 bad input (with a message on stderr), 1 a failed check."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except UserError as error:
        print(f"resnet-hub: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except BrokenPipeError:  # `resnet-hub list | head`
        sys.stderr.close()
        return EXIT_OK


def _run(given: list[str]) -> int:
    asked = next((word for word in given if not word.startswith("-")), None)
    if asked is not None and asked not in VERBS:
        raise UserError(f"There is no verb {asked!r}; {nearest(asked, VERBS, shown=len(VERBS))}")
    parser, verb_parsers = _parsers()
    if asked is None:
        parser.parse_args(given)  # --help and --version end here
        parser.print_help()
        return EXIT_OK
    verb = VERBS[asked]
    module = import_module(verb.module)
    getattr(module, f"add_arguments_{verb.name}")(verb_parsers[verb.name])
    parsed, unknown = parser.parse_known_args(given)
    if unknown:
        known = [flag for flag in verb_parsers[verb.name]._option_string_actions if flag.startswith("--")]
        raise UserError(f"resnet-hub {verb.name} does not take {unknown[0]!r}; {nearest(unknown[0], known)}")
    return getattr(module, f"run_{verb.name}")(parsed)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(prog="resnet-hub", description="A family of ResNets for timm and the Hugging Face Hub.")
    parser.add_argument("--version", action="version", version=f"resnet_hub {version('resnet_hub')}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB")
    return parser, {
        verb.name: subparsers.add_parser(verb.name, help=verb.help, description=f"{verb.help.capitalize()}.")
        for verb in VERBS.values()
    }


if __name__ == "__main__":
    sys.exit(main())
