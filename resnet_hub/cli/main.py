"""The command `resnet-hub`: a table of verbs, each in a module that is imported when its verb is typed."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NamedTuple, NoReturn

from resnet_hub.cli import flags
from resnet_hub.cores import keep_libraries_to_quota
from resnet_hub.errors import RunError, UserError, naming_the_extra, nearest
from resnet_hub.terminal import print_document, replace_unknown_letters, say, show_log

SHELLS = ("bash", "zsh")
EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT = 0, 1, 2


class Verb(NamedTuple):
    """A row of the table: where `run_<verb>(arguments) -> int` is, its flags, and what it is for."""

    module: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    help: str


VERBS = {
    "list": Verb("models", flags.add_list, "list the models of the family or their published weights"),
    "info": Verb("models", flags.add_info, "show one model, also of the Hub: size, input, license, accuracy"),
    "check": Verb("check", flags.add_check, "check that a variant keeps the family's contract"),
    "finetune": Verb(
        "finetune", flags.add_finetune, "fine-tune a model on your images, on all local devices"
    ),
    "validate": Verb("validate", flags.add_validate, "score a trained model on any split of any data set"),
    "inspect": Verb("inspect", flags.add_inspect, "look for wrong labels in a data set, without training"),
    "predict": Verb("predict", flags.add_predict, "label images, on the terminal or into a table"),
    "download": Verb("hub", flags.add_download, "download a model from the Hub and verify it"),
    "card": Verb("hub", flags.add_card, "print the model card of a folder, run or variant"),
    "compare": Verb("compare", flags.add_compare, "compare finished runs and test whether they differ"),
    "push": Verb("hub", flags.add_push, "publish a model folder on the Hub"),
    "export": Verb(
        "export", flags.add_export, "write ONNX and torch.export files, checked against the model"
    ),
    "demo": Verb("demo", flags.add_demo, "open a page on which people try a model, or write it as a Space"),
}


class _Parser(argparse.ArgumentParser):
    """argparse with three changes.

    `-` and `_` are the same in a flag, an unknown flag is answered with the nearest one, and an error is an
    exception, so that it reaches the user like any other.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse all words or raise UserError; argparse calls this for the words of a verb as well."""
        parsed, unknown = super().parse_known_args([self._as_declared(word) for word in args], namespace)
        if unknown:
            raise UserError(f"{self.prog} does not take {unknown[0]!r}; {nearest(unknown[0], self._flags())}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raise UserError."""
        end = "" if message.endswith((".", "?")) else "."
        raise UserError(f"{message}{end} See: {self.prog} --help")

    def _as_declared(self, word: str) -> str:
        if not word.startswith("--"):
            return word
        flag, equals, value = word.partition("=")
        same = {name.replace("_", "-"): name for name in self._flags()}
        return same.get(flag.replace("_", "-"), flag) + equals + value

    def _flags(self) -> list[str]:
        return [flag for flag in self._option_string_actions if flag.startswith("--")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code of the command line: 0 done, 2 bad input (with a message on stderr), 1 a failure."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_log()
    replace_unknown_letters()
    keep_libraries_to_quota()
    try:
        with naming_the_extra():
            return _run(words)
    except (UserError, RunError) as error:
        say(f"resnet-hub: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT if isinstance(error, UserError) else EXIT_FAILED
    except BrokenPipeError:  # `resnet-hub list | head`
        sys.stderr.close()
        return EXIT_OK


def _run(words: list[str]) -> int:
    name = words[0] if words and not words[0].startswith("-") else None
    if name is not None and name not in VERBS:
        raise UserError(f"There is no verb {name!r}; {nearest(name, VERBS, shown=len(VERBS))}")
    if name == "finetune":
        return _verb("finetune")(words[1:])  # tyro parses the options of a run
    parser, _ = _parsers()
    parsed = parser.parse_args(words)
    if name is not None:
        return _verb(name)(parsed)
    if parsed.print_completion:
        _print_completion(parsed.print_completion)
    else:
        parser.print_help()
    return EXIT_OK


def _verb(name: str) -> Callable[..., int]:
    return getattr(import_module(f"resnet_hub.cli.{VERBS[name].module}"), f"run_{name}")


def _parsers() -> tuple[_Parser, dict[str, argparse.ArgumentParser]]:
    """The parser, and that of each verb; the flags of finetune, which take long to find, are left out."""
    description = "A family of ResNets for timm and the Hugging Face Hub."
    parser = _Parser(prog="resnet-hub", description=description)
    parser.add_argument("--version", action="version", version=f"resnet_hub {version('resnet_hub')}")
    parser.add_argument(
        "--print_completion",
        choices=SHELLS,
        help='print shell completion; use it as: eval "$(resnet-hub --print_completion bash)"',
    )
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB")
    verb_parsers = {}
    for name, verb in VERBS.items():
        sentence = f"{verb.help[0].upper()}{verb.help[1:]}."
        verb_parsers[name] = subparsers.add_parser(name, help=verb.help, description=sentence)
        if name != "finetune":
            verb.add_flags(verb_parsers[name])
    return parser, verb_parsers


def _print_completion(shell: str) -> None:
    """Print what makes the shell complete verbs, flags, choices and files."""
    import shtab  # noqa: PLC0415  only here

    parser, verb_parsers = _parsers()
    VERBS["finetune"].add_flags(verb_parsers["finetune"])
    for verb_parser in verb_parsers.values():
        for action in verb_parser._actions:
            is_path = str(action.metavar).startswith(("FILE", "FOLDER", "PATH"))
            if is_path or not (action.option_strings or action.choices):
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]  read by shtab
    print_document(shtab.complete(parser, shell=shell) + "\n")


if __name__ == "__main__":
    sys.exit(main())
