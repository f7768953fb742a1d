"""The flags of every verb. Nothing heavy is imported, so that help and refusals come at once."""

import argparse
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any, Literal, TypeVar

from resnet_hub.cards.licenses import known_license
from resnet_hub.errors import ConfigError, UserError, nearest
from resnet_hub.files import check_new_file, check_new_folder, expanded, expanded_text
from resnet_hub.formats.kinds import KINDS, Kind

_Value = TypeVar("_Value")

LOOPBACK = "127.0.0.1"

_MODEL = "a run's folder, a model folder, owner/name on the Hub, or a model with weights: my_resnet50"
_REVISION = "branch, tag or commit of the Hub repository (default: main)"


def add_list(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub list`."""
    add = parser.add_argument
    add("pattern", nargs="?", default="*", help="only matching models, such as '*50*' or my_resnext*")
    add("--pretrained", action="store_true", help="list published weights instead of models")
    _add_json(parser)


def add_info(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub info`."""
    parser.add_argument(
        "model",
        type=expanded_text,
        help="a model of the family (my_resnet50, my_resnet50.a1_in1k), owner/name on the Hub, or a folder",
    )
    _add_json(parser)


def add_check(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub check`."""
    add = parser.add_argument
    add("model", help="the variant to check, such as my_resnet50 or one of your own")
    add(
        "--import",
        dest="module",
        type=expanded_text,
        metavar="MODULE",
        help="module or .py file that registers your variant",
    )
    _add_json(parser)


def add_finetune(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub finetune`, for completion alone: tyro makes and parses the real ones."""
    from resnet_hub.cli.finetune import LaunchCommand  # noqa: PLC0415
    from resnet_hub.finetuning.config.flags import list_flags  # noqa: PLC0415

    for flag in list_flags(LaunchCommand):
        if "--help" in flag.spellings:
            continue
        if flag.metavar is None:
            parser.add_argument(*flag.spellings, action="store_true", help=flag.help)
        else:
            parser.add_argument(*flag.spellings, metavar=flag.metavar, help=flag.help)


def add_validate(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub validate`."""
    add = parser.add_argument
    add("model", type=expanded_text, help=_MODEL)
    _add_dataset(
        parser,
        name="data set to score on, as in fine-tuning (default: that of the run)",
        split="split or slice, such as validation[:50%%] (default: the run's own; validation, else test)",
    )
    add("--label_column_name", metavar="NAME", help="column of labels (default: found by its type)")
    add(
        "--max_bad_images",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="largest share of unreadable images to leave out (default: 0.01)",
    )
    add("--image_size", type=_positive, metavar="PIXELS", help="height and width (default: the model's)")
    add(
        "--crop_pct",
        type=_positive_share,
        metavar="SHARE",
        help="share of the short side that the center crop keeps (default: the model's)",
    )
    add(
        "--tta",
        choices=("none", "flip"),
        default="none",
        help="flip: average the logits of each image and its mirror image (default: none)",
    )
    _add_batches(parser)
    add(
        "--output_dir",
        type=_new_folder,
        metavar="FOLDER",
        help="write scores.json, predictions.parquet and report.html into this new folder",
    )
    _add_json(parser)


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub inspect`."""
    add = parser.add_argument
    add("dataset", type=expanded_text, metavar="DATASET", help="data set, as --dataset_name of fine-tuning")
    add("--model", type=expanded_text, default="my_resnet50", help=f"{_MODEL} (default: my_resnet50)")
    add("--dataset_config_name", metavar="NAME", help="configuration of the Hub data set")
    add("--dataset_revision", metavar="NAME", help="branch, tag or commit of the Hub data set")
    add("--split", metavar="NAME", help="split or slice to inspect (default: the training split)")
    add("--image_column_name", metavar="NAME", help="column of images (default: found by its type)")
    add("--label_column_name", metavar="NAME", help="column of labels (default: found by its type)")
    add("--image_size", type=_positive, metavar="PIXELS", help="height and width (default: the model's)")
    add("--at_most", type=_positive, default=20, metavar="N", help="labels to print (default: 20)")
    add("--output", type=_new_file, metavar="FILE", help="write all of them into this new .csv file")
    _add_json(parser)


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub predict`."""
    add = parser.add_argument
    add("model", type=expanded_text, help=_MODEL)
    add(
        "images",
        nargs="*",
        type=expanded_text,
        help="files, folders with all they hold, or patterns: 'photos/**/*.jpg'",
    )
    add("--allow_urls", action="store_true", help="fetch images from http(s) addresses")
    add("--top_k", type=_positive, default=5, metavar="N", help="labels per image (default: 5)")
    add("--output", type=expanded, metavar="FILE", help="write a new .csv, .jsonl or .parquet file")
    _add_json(parser)
    add(
        "--temperature",
        type=_temperature,
        metavar="auto|FLOAT",
        default=1.0,
        help="divide logits by this; auto: calibrate on the run's validation predictions (default: 1)",
    )
    add(
        "--gradcam",
        type=_new_folder,
        metavar="FOLDER",
        help="save Grad-CAM pictures of where the model looks into this new folder",
    )
    _add_batches(parser)
    _add_dataset(
        parser,
        name="label the images of a data set, as in fine-tuning",
        split="split or slice of the data set, such as test[:100] (default: all splits)",
    )


def add_download(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub download`."""
    add = parser.add_argument
    add("source", help="owner/name on the Hub, or a model with published weights: my_resnet50")
    add("--revision", help=_REVISION)
    add("--output", type=_new_folder, metavar="FOLDER", help="copy the files into this new folder")


def add_card(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub card`."""
    add = parser.add_argument
    add("source", type=expanded_text, help="a run's folder, a model folder, or a variant: my_resnet50")
    add("--repo_id", metavar="OWNER/NAME", help="write the usage code for this Hub repository")
    add(
        "--license",
        type=_license,
        metavar="ID",
        help="license of the weights: an id of the Hub, such as apache-2.0, or other (default: as it is)",
    )
    add("--write", action="store_true", help="update the folder's README.md, keeping your edits")


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub compare`."""
    add = parser.add_argument
    add("runs", nargs="+", type=expanded, metavar="RUN", help="folder of a finished run")
    add(
        "--output",
        type=_new_file,
        metavar="FILE.html",
        help="write a page with all curves in one figure; with a single run, its report.html",
    )
    _add_json(parser)


def add_push(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub push`."""
    add = parser.add_argument
    add("folder", type=expanded, help="a run's folder or a model folder")
    add("repo_id", help="owner/name on the Hub; a bare name means the owner of your token")
    add("--private", action="store_true", help="create a private repository")
    add("--revision", help="branch to push to, created if missing (default: main)")
    add("--create_pr", action="store_true", help="open a pull request instead of pushing to the branch")
    add("--tag", help="new tag for the commit")
    add("--message", help="first line of the commit message")
    add("--yes", action="store_true", help="create a public repository without asking, or without a terminal")


def add_export(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub export`."""
    add = parser.add_argument
    add("model", type=expanded_text, help=_MODEL)
    add("--output_dir", type=_new_folder, required=True, metavar="FOLDER", help="new folder for the files")
    add(
        "--formats",
        nargs="+",
        type=_kind,
        default=[KINDS["onnx"], KINDS["pt2"]],
        metavar="FORMAT",
        help=f"{', '.join(KINDS)} (default: onnx pt2)",
    )
    add(
        "--with_preprocessing",
        action="store_true",
        help="take resized uint8 images (batch, height, width, channels) and return probabilities",
    )
    add(
        "--images",
        nargs="+",
        type=expanded_text,
        default=[],
        metavar="PATH",
        help="images, folders or patterns to compare on (default: the run's validation split, else noise)",
    )
    add("--num_images", type=_two_or_more, default=256, metavar="N", help="images to use (default: 256)")
    add(
        "--tolerance",
        type=_not_negative,
        metavar="SHARE",
        help="largest accepted logit error, relative to the largest logit (default: by format)",
    )
    add(
        "--min_agreement",
        type=_share,
        metavar="SHARE",
        help="smallest accepted share of images with the same top class (default: by format)",
    )
    add("--batch_size", type=_positive, default=16, metavar="N", help="images per batch (default: 16)")
    add("--threads", type=_positive, metavar="N", help="CPU threads (default: all available cores)")
    add("--revision", help=_REVISION)
    add("--no_pretrained", action="store_true", help="use random weights, to measure speed")
    _add_json(parser)


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Flags of `resnet-hub demo`."""
    add = parser.add_argument
    add("model", type=expanded_text, help=_MODEL)
    add("--revision", help=_REVISION)
    add(
        "--examples",
        type=expanded,
        metavar="FOLDER",
        help="example images (default: a run's validation split)",
    )
    add("--host", default=LOOPBACK, help=f"address to listen on (default: {LOOPBACK})")
    add("--port", type=_port, metavar="N", help="port to listen on (default: the first free one from 7860)")
    add("--space", type=_new_folder, metavar="FOLDER", help="write a Hub Space to a new folder instead")


def dataset_options(arguments: argparse.Namespace, *others: str) -> dict[str, Any]:
    """The options of a data set that were given, and `others` that go with it; none without `--dataset_name`.

    Raises ConfigError for one that is given without a data set.
    """
    names = ("dataset_name", "dataset_config_name", "dataset_revision", "image_column_name", *others)
    found = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if found and "dataset_name" not in found:
        raise ConfigError(f"--{next(iter(found))} goes with --dataset_name, which is missing.")
    return found


def _add_dataset(parser: argparse.ArgumentParser, *, name: str, split: str) -> None:
    add = parser.add_argument
    add("--dataset_name", type=expanded_text, metavar="NAME", help=name)
    add("--dataset_config_name", metavar="NAME", help="configuration of the Hub data set")
    add("--dataset_revision", metavar="NAME", help="branch, tag or commit of the Hub data set")
    add("--split", help=split)
    add("--image_column_name", metavar="NAME", help="column of images (default: found by its type)")


def _add_batches(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--batch_size", type=_positive, default=64, metavar="N", help="images per batch (default: 64)")
    add(
        "--num_workers", type=_zero_or_more, metavar="N", help="data-loader workers (default: from the cores)"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _number(
    kind: type[int] | type[float], wanted: str, fits: Callable[[float], bool]
) -> Callable[[str], float]:
    """A type for argparse: numbers of a `kind` that fit; others are refused with what was wanted."""

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = nan  # no comparison holds for it
        if not fits(value):
            raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
        return value

    return parse


_zero_or_more = _number(int, "a whole number, 0 or more", lambda value: value >= 0)
_positive = _number(int, "a whole number, 1 or more", lambda value: value >= 1)
_two_or_more = _number(int, "a whole number, 2 or more", lambda value: value >= 2)
_not_negative = _number(float, "a number, at least 0", lambda value: value >= 0)
_above_zero = _number(float, "a number above 0, or auto", lambda value: 0 < value < inf)
_share = _number(float, "a share from 0 to 1", lambda value: 0 <= value <= 1)
_positive_share = _number(float, "a share above 0 and at most 1", lambda value: 0 < value <= 1)
_port = _number(int, "a port from 1 to 65535", lambda value: 0 < value < 65536)


def _temperature(text: str) -> float | Literal["auto"]:
    return "auto" if text == "auto" else _above_zero(text)


def _kind(text: str) -> Kind:
    if text not in KINDS:
        raise argparse.ArgumentTypeError(f"no format is called {text!r}; {nearest(text, KINDS, shown=9)}")
    return KINDS[text]


def _license(text: str) -> str:
    return _checked(text, known_license)


def _new_folder(text: str) -> Path:
    return _checked(expanded(text), check_new_folder)


def _new_file(text: str) -> Path:
    path = _checked(expanded(text), check_new_file)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}. Create it first.")
    return path


def _checked(value: _Value, check: Callable[[_Value], object]) -> Any:
    """The value, or what the check makes of it."""
    try:
        found = check(value)
    except UserError as error:  # for argparse, which would print the name of the function otherwise
        raise argparse.ArgumentTypeError(str(error)) from error
    return value if found is None else found
