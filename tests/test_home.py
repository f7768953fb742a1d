"""`~` is the home folder wherever a path can be given: every flag, option and public function."""

import argparse
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import resnet_hub
import resnet_hub.hub
import resnet_hub.prediction
from resnet_hub.cli import main as command_line
from resnet_hub.demo.space import write_space
from resnet_hub.errors import HubError
from resnet_hub.finetuning.config.flags import parse_command_line
from resnet_hub.finetuning.config.options import NAMES_OR_PATHS, DataOptions, FinetuneConfig
from resnet_hub.finetuning.config.yaml_file import load_config
from resnet_hub.finetuning.report.compare import compare_runs
from resnet_hub.formats.kinds import KINDS
from resnet_hub.formats.writing import ExportRequest, write_formats
from resnet_hub.models.my_resnet import VARIANTS
from tests.color_model import COLORS, photo
from tests.hub_server.fixtures import publish

pytest_plugins = ["tests.color_model", "tests.hub_server.fixtures"]

# What a flag or an option takes that is text and never a path.
NO_PATHS = {
    *("pattern", "split", "revision", "tag", "message", "repo_id", "host", "source of download"),
    *("dataset_config_name", "dataset_revision", "image_column_name", "label_column_name"),
    *("dataset_title", "train_split", "validation_split", "test_split", "auto_augment", "report_to"),
    *("hub_model_id", "model of check", "license"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "ann"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def flags_with_text() -> list[tuple[str, argparse.Action]]:
    """Verb and flag, of every flag that takes text."""
    _, parsers = command_line._parsers()
    return [
        (verb, action)
        for verb, parser in parsers.items()
        for action in parser._actions
        if action.nargs != 0 and action.choices is None and is_text(action)
    ]


def is_text(action: argparse.Action) -> bool:
    convert: Any = action.type or str
    try:
        convert("a")
    except argparse.ArgumentTypeError:  # a number, or one of a list
        return False
    return True


def test_every_flag_that_takes_a_path_understands_it(home: Path):
    for verb, action in flags_with_text():
        convert: Any = action.type or str
        is_path = not {action.dest, f"{action.dest} of {verb}"} & NO_PATHS
        assert str(convert("~/a")) == (str(home / "a") if is_path else "~/a"), (verb, action.dest)


def paths_of(kind: type) -> list[str]:
    """Options that are a path or may be one."""
    texts = {each.name for each in fields(kind) if each.type in (str, str | None)}
    assert texts - NO_PATHS <= set(NAMES_OR_PATHS)
    return [each.name for each in fields(kind) if each.type == Path | None or each.name in NAMES_OR_PATHS]


@pytest.mark.parametrize("name", paths_of(FinetuneConfig))
def test_every_option_of_a_run_understands_it_from_flags_yaml_and_python(name: str, home: Path):
    options: dict[str, Any] = {"train_dir": "~/t", name: "~/a"}
    if name == "dataset_name":
        del options["train_dir"]
    home.joinpath("c.yaml").write_text(yaml.safe_dump(options))
    flags = [word for flag, path in options.items() for word in (f"--{flag}", path)]
    configs = [
        parse_command_line(flags).finetuning,
        parse_command_line(["--config", "~/c.yaml"]).finetuning,
        FinetuneConfig(**load_config(Path("~/c.yaml"))),
        FinetuneConfig(**options),
        FinetuneConfig(**{flag: Path(path) for flag, path in options.items()}),
    ]
    wanted = str(home / "a") if name in NAMES_OR_PATHS else home / "a"
    assert [getattr(config, name) for config in configs] == [wanted] * 5
    if name in paths_of(DataOptions):
        assert getattr(DataOptions(**{name: "~/a"}), name) == wanted


def test_a_text_for_a_folder_is_a_path_and_an_unknown_home_is_no_error(monkeypatch):
    assert FinetuneConfig(dataset_name="digits", output_dir="x").run_dir == Path("x")  # pyright: ignore
    assert FinetuneConfig(output_dir="~nobody_of_that_name/x").output_dir == Path("~nobody_of_that_name/x")  # pyright: ignore


def of_python(home: Path) -> dict[str, Callable[[], Any]]:
    """A call for each parameter of a public function that takes a path."""
    model = resnet_hub.load("~/model")
    figure = {"a": Path("~/photo.png")}
    request = ExportRequest(kinds=(KINDS["pt2"],), pixels=black_pixels(), pixels_from="noise", facts={})
    names = ["red", "green", "blue"]
    return {
        "finetune model": lambda: resnet_hub.finetune(
            "~/model", "~/photos", output_dir=home / "run1", recipe="quick"
        ),
        "finetune output_dir": lambda: resnet_hub.finetune(
            "~/model", Path("~/photos"), output_dir="~/run2", recipe="quick"
        ),
        "load source": lambda: resnet_hub.load("~/model"),
        "load cache_dir": lambda: resnet_hub.load("alice/digits", cache_dir=Path("~/cache1")),
        "download cache_dir": lambda: resnet_hub.download("alice/digits", cache_dir=Path("~/cache2")),
        "save_folder folder": lambda: resnet_hub.save_folder(model, "~/saved", class_names=names),
        "save_folder figures": lambda: resnet_hub.save_folder(
            model, "~/drawn", class_names=names, figures=figure
        ),
        "push_folder folder": lambda: resnet_hub.push_folder("~/model", "alice/colors"),
        "classify image": lambda: resnet_hub.classify(model, "~/photo.png"),
        "classify_all images": lambda: resnet_hub.classify_all(model, [Path("~/photo.png")]),
        "current_card folder": lambda: resnet_hub.hub.current_card(Path("~/model"), repo_id=None),
        "refresh_card folder": lambda: resnet_hub.hub.refresh_card(Path("~/model"), repo_id=None),
        "refresh_card edits_in": lambda: resnet_hub.hub.refresh_card(
            home / "model", repo_id=None, edits_in=Path("~/model")
        ),
        "find_images sources": resnet_hub.prediction.find_images(["~/photo.png", "~/*.png"])[0].read,
        "open_model name": lambda: resnet_hub.prediction.open_model("~/model"),
        "register_variant pretrained": lambda: resnet_hub.register_variant(
            "my_network_at_home", VARIANTS["my_resnet20"], pretrained="~/model/model.safetensors"
        ),
        "write_formats folder": lambda: write_formats(model, Path("~/files"), request),
        "write_space folder": lambda: write_space(model, Path("~/space"), title="a"),
        "write_space examples": lambda: write_space(
            model, home / "space2", title="a", examples=[Path("~/photo.png")]
        ),
    }


def black_pixels() -> torch.Tensor:
    return torch.zeros(2, 3, 32, 32, dtype=torch.uint8)


PUBLIC = [
    *(getattr(resnet_hub, name) for name in resnet_hub.__all__ if name != "create_model"),
    *(getattr(resnet_hub.hub, name) for name in resnet_hub.hub.__all__),
    *(getattr(resnet_hub.prediction, name) for name in resnet_hub.prediction.__all__),
    *(write_formats, write_space),
]


def path_parameters() -> set[str]:
    return {
        f"{function.__name__} {parameter.name}"
        for function in PUBLIC
        if inspect.isfunction(function)
        for parameter in inspect.signature(function).parameters.values()
        if "Path" in str(parameter.annotation) or parameter.name in ("image", "images", "sources")
    } - {"predict_images images"}  # records with a name


def test_every_public_function_that_takes_a_path_understands_it(hub, exported, color_model, home: Path):
    publish(hub, exported[1])
    (home / "model").mkdir()
    for file in color_model.rglob("*"):
        if file.is_file():
            copy = home / "model" / file.relative_to(color_model)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    photo("red", 1).save(home / "photo.png")
    for color in COLORS:
        (home / "photos" / color).mkdir(parents=True)
        for number in range(8):
            photo(color, number).save(home / "photos" / color / f"{number}.png")
    calls = of_python(home)
    assert set(calls) == path_parameters()
    for call in calls.values():
        call()
    written = {"saved", "drawn", "files", "space", "space2", "cache1", "cache2", "run1", "run2"}
    assert {path.name for path in home.iterdir()} == written | {"model", "photo.png", "photos"}
    assert not Path("~").exists()


def test_a_folder_that_is_not_there_is_named_in_full(home: Path):
    with pytest.raises(HubError, match=str(home)):
        resnet_hub.push_folder("~/nothing", "alice/colors")
    with pytest.raises(resnet_hub.UserError, match=str(home)):
        compare_runs([Path("~/nothing")])
