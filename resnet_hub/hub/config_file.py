"""The config.json of a model folder: written from a model, and read from strangers without trusting it."""

import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import timm
from timm.data import resolve_input_data_config
from timm.models._hub import save_config_for_hf
from torch import nn

from resnet_hub.downloads.download import CONFIG_FILE
from resnet_hub.errors import HubError, ModelError, nearest
from resnet_hub.files import write_atomically
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.models.my_resnet import VARIANTS, timm_twin
from resnet_hub.models.variant import ATTENTIONS, GLOBAL_POOLS, AntiAlias, Shortcut, Stem

OUR_KEY = "resnet_hub"
"""Key of config.json that says what only this package needs: the variant, the base model, the dataset."""

TRAIN_SIZE = "train_input_size"
"""Key below it: channels, height and width of training images."""

_MAX_CONFIG_BYTES = 8 * 2**20  # the names and descriptions of ImageNet-21k's classes are about 2 MB
_REST_OF_CONFIG_BYTES = 2**16  # beside the names: a few hundred of preprocessing and of where it comes from
_MAX_CLASSES = 1_000_000
_MAX_NAME_CHARS = 1_000
_MAX_LICENSE_CHARS = 100
_MAX_IMAGE_SIZE = 2048  # one image of twice the size takes 5.4 GB
_MOST_RESIZED = 2 * _MAX_IMAGE_SIZE  # pixels of the short side before the crop
_LARGEST_PIXEL = 1e4
_MAX_CHANNELS = 4096  # of a satellite's spectrometer; photographs have 3

_OUTPUT_STRIDES = (1, 2, 4, 8, 16, 32)
_LAYER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


def _is_count(limit: int) -> Any:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit


def _is_one_of(*choices: Any) -> Any:
    return lambda value: value in choices


def _is_layer_name(value: Any) -> bool:
    return isinstance(value, str) and _LAYER_NAME.fullmatch(value) is not None


def _is_size(value: Any) -> bool:
    """Whether this is (channels, height, width) of an image that one machine can hold."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(_is_count(_MAX_IMAGE_SIZE)(side) for side in value)
    )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 < value <= 2


def _is_numbers(*, at_least: float) -> Any:
    """Whether these are numbers of pixels, one for each channel or for all; pixels are from 0 to 1."""
    return lambda value: (
        isinstance(value, list | tuple)
        and 1 <= len(value) <= _MAX_CHANNELS
        and all(isinstance(number, int | float) and at_least <= number <= _LARGEST_PIXEL for number in value)
    )


MODEL_ARGS: dict[str, Any] = {
    "in_chans": _is_count(_MAX_CHANNELS),
    "global_pool": _is_one_of(*GLOBAL_POOLS),
    "output_stride": _is_one_of(*_OUTPUT_STRIDES),
    "act_layer": _is_layer_name,
    "norm_layer": _is_layer_name,
    "aa_layer": _is_layer_name,
    "stem": _is_one_of(*get_args(Stem)),
    "shortcut": _is_one_of(*get_args(Shortcut)),
    "attn": _is_one_of(*ATTENTIONS),
    "anti_alias": _is_one_of(*get_args(AntiAlias)),
    "zero_init_last": lambda value: isinstance(value, bool),
    "img_size": lambda value: _is_count(_MAX_IMAGE_SIZE)(value) or _is_size([3, *value]),
}
"""The constructor options that a config.json may set, each with what a good value is; all others are
refused. Whatever MyResNet takes, apart from rates that matter only in training, has to be here: a model that
was trained for hours must not be refused when it is saved."""

_PREPROCESSING: dict[str, Any] = {
    "input_size": _is_size,
    "test_input_size": _is_size,
    "interpolation": _is_one_of("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming", "random"),
    "crop_pct": _is_share,
    "test_crop_pct": _is_share,
    "crop_mode": _is_one_of("center", "squash", "border"),
    "mean": _is_numbers(at_least=-_LARGEST_PIXEL),
    "std": _is_numbers(at_least=1 / _LARGEST_PIXEL),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a config.json says, checked: enough to build the network and to prepare its images."""

    architecture: str
    """Name in timm's registry of what is built; ours if the file names one of our variants."""
    num_classes: int
    model_args: dict[str, Any]
    label_names: tuple[str, ...] | None
    pretrained_cfg: dict[str, Any]
    """timm's preprocessing and license fields; nothing in it names a file, an address or code."""
    license_id: str | None
    train_input_size: tuple[int, int, int] | None
    """Of the images that it was trained on, where the file says so; `pretrained_cfg` is of evaluation."""
    extra: dict[str, Any]
    """Our own key: `variant`, `base_model`, `license`, `dataset`, ..."""


def write_config(
    model: nn.Module,
    folder: Path,
    *,
    class_names: Sequence[str],
    license_id: str | None,
    preprocessing: Preprocessing | None,
    extra: Mapping[str, Any],
) -> None:
    """Write config.json for timm, transformers and us, with the preprocessing of evaluation.

    Every client must prepare an image in the same way, and they differ in whether they look at the training
    or at the test size; so both are written as the size and crop that the model was evaluated with. Without
    `preprocessing` that is what its `pretrained_cfg` says.
    """
    asked = None if preprocessing is None else preprocessing.timm_config()
    data = resolve_input_data_config(model, args=asked, use_test_size=True)
    sizes: dict[str, Any] = {
        "input_size": data["input_size"],
        "test_input_size": data["input_size"],
        "crop_pct": data["crop_pct"],
        "test_crop_pct": data["crop_pct"],
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG_FILE
        try:
            save_config_for_hf(
                model,
                str(path),
                model_config={"label_names": list(class_names)},
                data_config={**data, **sizes},
            )
        except ValueError as error:  # an option that JSON cannot hold, such as a class of layers
            raise ModelError(
                f"The model cannot be described in a {CONFIG_FILE}: {error} Make it with options that are "
                f"text and numbers, such as act_layer='silu' for act_layer=nn.SiLU."
            ) from error
        config = json.loads(path.read_text(encoding="utf-8"))
    twin = timm_twin(model)
    variant = _variant_of(model, config["architecture"], twin)
    config["architecture"] = twin or variant
    # transformers passes num_classes beside model_args, and refuses to get it twice. A network that timm has
    # too is built there from these two alone, whichever of our options spelled it out.
    config["model_args"] = {
        key: value
        for key, value in config["model_args"].items()
        if key != "num_classes" and (twin is None or key in ("in_chans", "global_pool"))
    }
    cfg = config["pretrained_cfg"]
    for key in (
        "tag",
        "origin_url",
        "license",
        "paper_ids",
        "description",
        "notes",
    ):  # true of the base, not of this
        cfg.pop(key, None)
    if license_id:
        cfg["license"] = license_id
    reduction = getattr(model, "feature_info", [{"reduction": 32}])[-1]["reduction"]
    cfg["pool_size"] = [math.ceil(side / reduction) for side in data["input_size"][1:]]
    config[OUR_KEY] = {
        "variant": variant,
        **{key: value for key, value in extra.items() if value is not None},
    }
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def set_license(folder: Path, license_id: str) -> None:
    """Write another license into the config.json of a model folder."""
    config = _read_json(folder / CONFIG_FILE, source=str(folder))
    config["pretrained_cfg"]["license"] = license_id
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / CONFIG_FILE, text + "\n")


def _variant_of(model: nn.Module, name: str, twin: str | None) -> str:
    """Our name of the network as it was built, which options can have made another one than `name` is.

    They are not written where timm has the network, so the name alone has to build it again.
    """
    is_the_row = name in VARIANTS and VARIANTS[name] == getattr(model, "variant", None)
    return name if twin is None or is_the_row else f"my_{twin}"


def problem_with_names(class_names: Sequence[str]) -> str | None:
    """Why no config.json could hold these class names, as half a sentence; None if one can."""
    longest = max(class_names, key=len)
    if len(longest) > _MAX_NAME_CHARS:
        length = f"{len(longest):,} of at most {_MAX_NAME_CHARS:,} characters"
        return f"the class name {longest[:40]!r}... has {length}"
    if len(class_names) > _MAX_CLASSES:
        return f"there are {len(class_names):,} classes, of at most {_MAX_CLASSES:,}"
    size = len(json.dumps(list(class_names), indent=2, ensure_ascii=False).encode(errors="replace"))
    if size > _MAX_CONFIG_BYTES - _REST_OF_CONFIG_BYTES:
        return f"the class names take {size / 2**20:.3g} MiB, of less than {_MAX_CONFIG_BYTES >> 20}"
    return None


def read_config(path: Path, *, source: str) -> ModelConfig:
    """What the file says, with every value checked before anything is built from it.

    Raises:
        HubError: it is missing, too large, not JSON, or asks for an architecture, an option or a value that
            this package does not have. `source` names the folder or repository in the message.
    """
    config = _read_json(path, source=source)
    if "pretrained_cfg" not in config:
        raise _refusal(source, "has no 'pretrained_cfg', so it is not the config.json of a timm model")
    cfg = _expect(config["pretrained_cfg"], dict, source, "pretrained_cfg")
    own = _expect(config.get(OUR_KEY, {}), dict, source, OUR_KEY)
    num_classes = config.get("num_classes", cfg.get("num_classes"))
    if num_classes != 0 and not _is_count(_MAX_CLASSES)(num_classes):
        raise _refusal(
            source, f"gives num_classes as {_short(num_classes)}, which is not a number of classes"
        )
    model_args = _checked(config.get("model_args") or {}, MODEL_ARGS, source=source, strict=True)
    preprocessing = _checked(cfg, _PREPROCESSING, source=source, strict=False)
    _refuse_odd_preprocessing(preprocessing, model_args.get("in_chans", 3), source=source)
    return ModelConfig(
        architecture=_known_architecture(config, own, source=source),
        num_classes=num_classes,
        model_args=model_args,
        label_names=_label_names(
            config.get("label_names", cfg.get("label_names")), num_classes, source=source
        ),
        pretrained_cfg=preprocessing,
        license_id=_license(cfg.get("license")),
        train_input_size=tuple(trained) if _is_size(trained := own.get(TRAIN_SIZE)) else None,
        extra={key: value for key, value in own.items() if isinstance(value, str | int | float | bool)},
    )


def _read_json(path: Path, *, source: str) -> dict[str, Any]:
    if not path.is_file() and (path.parent / "report.json").is_file():
        raise HubError(
            f"{source} holds a finished run, and its export/{CONFIG_FILE} is missing. Remove its report.json "
            f"and run the command that started it again: it measures and exports the model again."
        )
    if not path.is_file() and (path.parent / "checkpoints").is_dir():
        raise HubError(
            f"{source} holds a run that is not finished, so there is no model yet. Run the command that "
            f"started it again, and it resumes."
        )
    if not path.is_file():
        raise HubError(
            f"{source} has no {CONFIG_FILE}, so it is not a model that was exported by timm or by "
            f"resnet_hub. "
            f"A folder made by save_folder, or the export/ of a run, has one."
        )
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        size = path.stat().st_size / 2**20
        raise _refusal(source, f"is {size:.0f} MiB large; more than {_MAX_CONFIG_BYTES >> 20} are not read")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (
        ValueError,
        RecursionError,
    ) as error:  # too deep, or an integer of too many digits, are errors as well
        raise _refusal(source, f"is not JSON that can be read: {_short(error)}") from None
    return _expect(config, dict, source, "the whole file")


def _known_architecture(config: dict[str, Any], own: dict[str, Any], *, source: str) -> str:
    """Our variant of what timm is given, if the file names one and it is registered here; else the latter.

    Folders of earlier versions can name a variant that does not compute what the architecture computes: that
    which the options were added to. The architecture is right, and which variant it is, the table knows.
    """
    variant, name = own.get("variant"), config.get("architecture")
    if isinstance(variant, str) and isinstance(name, str) and variant in VARIANTS:
        for known in (variant, f"my_{name}"):
            if timm_twin(known) == name:
                return known
    if isinstance(name, str) and timm.is_model(name):
        return name
    if not isinstance(name, str):
        raise _refusal(source, f"gives the architecture as {_short(name)}, which is not a name")
    raise _refusal(
        source,
        f"asks for the architecture {_short(name)}, which neither timm {timm.__version__} nor resnet_hub "
        f"has; "
        f"{nearest(name[:60], timm.list_models('*resn*'))} A newer one may come with: pip install -U timm "
        f"resnet_hub."
        " A variant of your own has to be registered first, with resnet_hub.register_variant",
    )


def _checked(values: Any, rules: Mapping[str, Any], *, source: str, strict: bool) -> dict[str, Any]:
    """The entries that have a rule and obey it; an entry without a rule is refused or left out."""
    kept: dict[str, Any] = {}
    for key, value in _expect(values, dict, source, "an entry").items():
        if key == "num_classes" or value is None:
            continue
        if key not in rules:
            if strict:
                raise _refusal(
                    source,
                    f"sets the model option {_short(key)}, which a model from outside may not set; "
                    f"{nearest(key[:60], rules)}",
                )
            continue
        if not _obeys(rules[key], value):
            limit = f" (sides are at most {_MAX_IMAGE_SIZE} pixels; lower them there)" * ("size" in key)
            raise _refusal(source, f"sets {key!r} to {_short(value)}, which is not a value of it{limit}")
        kept[key] = tuple(value) if isinstance(value, list) else value
    return kept


def _refuse_odd_preprocessing(cfg: Mapping[str, Any], channels: int, *, source: str) -> None:
    """Raise HubError where values that are good alone go together to nothing that can be computed."""
    for key in ("mean", "std"):
        if key in cfg and len(cfg[key]) not in (1, 3, channels):
            raise _refusal(source, f"has {len(cfg[key])} numbers as {key!r}, for {channels} channels")
    for prefix in ("", "test_"):
        size, share = cfg.get(f"{prefix}input_size"), cfg.get(f"{prefix}crop_pct", cfg.get("crop_pct", 1))
        if size is not None and max(size[1:]) > share * _MOST_RESIZED:
            raise _refusal(
                source,
                f"asks for images of {max(size[1:]) / share:,.3g} pixels ('{prefix}input_size' over "
                f"'{prefix}crop_pct'), and at most {_MOST_RESIZED:,} are made",
            )


def _obeys(rule: Any, value: Any) -> bool:
    try:
        return bool(rule(value))
    except (TypeError, OverflowError):  # of another kind altogether: not iterable, or of 400 digits
        return False


def _label_names(names: Any, num_classes: int, *, source: str) -> tuple[str, ...] | None:
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != num_classes:
        raise _refusal(source, f"names {_length(names)} classes, and the model tells {num_classes} apart")
    if not all(isinstance(name, str) and len(name) <= _MAX_NAME_CHARS for name in names):
        raise _refusal(source, f"has a class name that is not a text of at most {_MAX_NAME_CHARS} characters")
    return tuple(names)


def _license(name: Any) -> str | None:
    return name if isinstance(name, str) and 0 < len(name) <= _MAX_LICENSE_CHARS else None


def _expect(value: Any, kind: type, source: str, what: str) -> Any:
    if not isinstance(value, kind):
        raise _refusal(source, f"has {_short(value)} where {what} should be an object")
    return value


def _length(value: Any) -> str:
    return str(len(value)) if isinstance(value, list | dict) else _short(value)


def _short(value: Any) -> str:
    """A value of unknown size in at most 80 characters, so that a message cannot be flooded."""
    text = (
        value
        if isinstance(value, str)
        else type(value).__name__
        if isinstance(value, list | dict)
        else str(value)
    )
    return repr(text[:80]) if isinstance(value, str) else text[:80]


def _refusal(source: str, what: str) -> HubError:
    return HubError(f"Cannot use {source}: its {CONFIG_FILE} {what}.")
