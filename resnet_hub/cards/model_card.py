"""Model cards: text and metadata rendered strictly from a run's report and from what the model folder holds.

No number in a card is typed by hand: what the report does not have, the card does not say.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import jinja2
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id

from resnet_hub.cards.installing import install_command
from resnet_hub.cards.licenses import LICENSES
from resnet_hub.models.origin import origin_of, registration_code
from resnet_hub.results import RunReport, Score

MAX_CLASS_ROWS = 60
"""A card is read by people; a table of all classes of ImageNet is in report.json."""

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_PRIVATE_KEYS = re.compile(
    r"host|user(name)?$|_dir$|path|command|token|secret|password|cwd|git_diff", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says of the files themselves, read from the folder and never from memory."""

    repo_id: str | None
    """None while the folder is not published; its usage code then loads the folder it stands in."""
    variant: str
    architecture: str
    """The name that config.json gives timm; `variant` when only resnet_hub can build it."""
    num_parameters: int
    class_names: tuple[str, ...]
    input_size: tuple[int, int, int]
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    license_id: str | None
    base_model: str | None
    figures: tuple[tuple[str, str], ...] = ()
    """Titles and paths of the images in the folder, in the order of the card."""


def render_card(report: RunReport | None, facts: CardFacts) -> str:
    """The whole README.md: metadata between two lines of dashes, then the text."""
    return with_front_matter(card_metadata(report, facts), render_body(report, facts))


def render_body(report: RunReport | None, facts: CardFacts) -> str:
    """The text of the card in Markdown, without metadata."""
    rendered = card_template("model_card.md").render(
        _card_values(None if report is None else public_report(report), facts)
    )
    return re.sub(r"\n{3,}", "\n\n", rendered).strip() + "\n"


def with_front_matter(metadata: ModelCardData, body: str) -> str:
    """The file that the Hub reads: metadata as YAML between two lines of dashes, then the text."""
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


@cache
def card_template(name: str) -> jinja2.Template:
    """A Markdown template of this package; a value that it lacks is an error and never an empty place."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML: `text` escapes for both
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    return environment.from_string(files("resnet_hub.cards").joinpath(f"templates/{name}").read_text("utf-8"))


def card_metadata(report: RunReport | None, facts: CardFacts) -> ModelCardData:
    """The Hub's metadata of the card: task, library, license, base model, dataset, classes' scores."""
    fields = license_fields(facts.license_id)
    data = ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "transformers", "resnet", "resnet_hub"],
        base_model=facts.base_model if is_repo_id(facts.base_model) else None,
        license=fields.get("license"),
        license_name=fields.get("license_name"),
        datasets=[report.dataset] if report is not None and is_hub_dataset(report) else None,
        metrics=["accuracy", "f1"] if report is not None and _scores(report) else None,
        model_name=_model_name(facts) if report is not None and _scores(report) else None,
        eval_results=_eval_results(report) if report is not None and _scores(report) else None,
    )
    if data.base_model:
        data["base_model_relation"] = "finetune"
    return data


def eval_results_file(report: RunReport) -> tuple[str, list[dict[str, Any]]] | None:
    """Path and content of the Hub's evaluation file; None for a data set that is not on the Hub."""
    score = report.test
    if score is None or not is_hub_dataset(report):
        return None
    low, high = score.accuracy_interval_95
    entry = EvalResultEntry(
        dataset_id=report.dataset,
        task_id="image-classification",
        value=score.accuracy,
        dataset_revision=report.dataset_revision,
        notes=f"accuracy on the test split, {score.num_images} images, 95 % interval {low:.4f} to {high:.4f}",
    )
    return f".eval_results/{slug(report.dataset)}.yaml", eval_result_entries_to_yaml([entry])


def license_fields(license_id: str | None) -> dict[str, str]:
    """`license`, and `license_name` where the Hub has no id for it; empty when nothing is known."""
    if not license_id:
        return {}
    name = license_id.strip().lower()
    return {"license": name} if name in LICENSES else {"license": "other", "license_name": slug(name)}


def is_repo_id(name: str | None) -> bool:
    """Whether the name can be that of a repository on the Hub, `owner/name`."""
    if name is None or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def is_hub_dataset(report: RunReport) -> bool:
    """Whether the data came from the Hub: then a commit was recorded. A folder may have such a name too."""
    return report.dataset_revision is not None and (is_repo_id(report.dataset) or "/" not in report.dataset)


def public_report(report: RunReport) -> RunReport:
    """The report as it may be published: no paths of this machine, no host or user names, no tokens."""
    return replace(
        report,
        dataset=_public(report.dataset),
        base_model=_public(report.base_model),
        recipe=_public(report.recipe),
        asked=_public(report.asked),
        environment=_public(report.environment),
        data=_public(report.data),
        splits={name: replace(split, how=_public(split.how)) for name, split in report.splits.items()},
    )


def text(value: Any, *, limit: int = 120) -> str:
    """Any value as one line of Markdown that shows exactly it: no markup, HTML, link or end of a cell."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())
    line = line if len(line) <= limit else line[: limit - 1] + "…"
    line = re.sub(r"([\\`*{}\[\]|~#$!+])", r"\\\1", line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", line)
    line = line.replace("://", "&#58;//").replace("@", "&#64;")  # the Hub links addresses and names of users
    line = re.sub(r"(?i)\bwww\.", lambda match: match[0][:-1] + "&#46;", line)
    line = re.sub(r"^(\d+)(?=[.)](\s|$))", r"\1\\", line)  # not the first entry of a numbered list
    return re.sub(r"^(?=[-=]{2}|[-=+](\s|$))", r"\\", line)


def slug(name: str) -> str:
    """The name as a file name: lower case letters, digits, dots and dashes."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:80] or "unnamed"


def _card_values(report: RunReport | None, facts: CardFacts) -> dict[str, Any]:
    scores = [] if report is None else _scores(report)
    class_rows, class_rows_left = _class_rows(scores[-1][1] if scores else None)
    source = facts.repo_id
    return {
        "title": text(_model_name(facts)),
        "summary": _summary(report, facts),
        "report": report,
        "scores": scores,
        "multi_label": report is not None and report.multi_label,
        "figures": facts.figures,
        "origin": origin_of(facts.architecture),
        "registration": registration_code(facts.architecture),
        "install": install_command(),
        "architecture": _identifier(facts.architecture),
        "color_mode": "L" if facts.input_size[0] == 1 else "RGB",
        "timm_source": f"hf-hub:{source}" if source else "local-dir:.",
        "our_source": source or ".",
        "transformers_source": source or ".",
        "model_rows": _model_rows(facts),
        "training_rows": [] if report is None else _training_rows(report),
        "recipe_rows": [] if report is None else _flat(report.applied_recipe),
        "environment_rows": [] if report is None else _flat(report.environment),
        "class_rows": class_rows,
        "class_rows_left": class_rows_left,
        "class_split": scores[-1][0] if scores else "",
        "class_names": facts.class_names,
        "class_list": ", ".join(text(name) for name in facts.class_names[:MAX_CLASS_ROWS])
        + (
            f", and {len(facts.class_names) - MAX_CLASS_ROWS} more in config.json"
            if len(facts.class_names) > MAX_CLASS_ROWS
            else ""
        ),
        "limits": _limits(report, facts),
        "text": text,
        "percent": lambda share: f"{100 * share:.2f} %",
    }


def _summary(report: RunReport | None, facts: CardFacts) -> str:
    what = (
        f"An image classifier: `{_identifier(facts.variant)}`, {facts.num_parameters / 1e6:.1f} M parameters"
    )
    if facts.class_names:
        what += f", which tells {len(facts.class_names)} classes apart"
    if report is None:
        return what + "."
    dataset = text(report.dataset)
    if is_hub_dataset(report):
        dataset = f"[{dataset}](https://huggingface.co/datasets/{report.dataset})"
    if facts.base_model is None:
        return f"{what}, trained from random weights on {dataset}."
    base = text(facts.base_model)
    if is_repo_id(facts.base_model):
        base = f"[{base}](https://huggingface.co/{facts.base_model})"
    return f"{what}, fine-tuned from {base} on {dataset}."


def _model_rows(facts: CardFacts) -> list[tuple[str, str]]:
    numbers = [", ".join(f"{value:.4g}" for value in values) for values in (facts.mean, facts.std)]
    _, height, width = facts.input_size
    rows = [
        ("Architecture", f"`{_identifier(facts.variant)}`"),
        ("Parameters", f"{facts.num_parameters:,}"),
        (
            "Images are resized and cropped to",
            f"{height} × {width}, the central {100 * facts.crop_pct:.1f} %",
        ),
        ("Interpolation", text(facts.interpolation)),
        ("Mean and standard deviation", f"{numbers[0]}; {numbers[1]}"),
        ("License", text(facts.license_id) if facts.license_id else "not stated"),
    ]
    if facts.architecture != facts.variant:
        rows.insert(1, ("The same network in timm", f"`{_identifier(facts.architecture)}`"))
    if facts.base_model is not None:
        rows.append(("Weights that training started from", text(facts.base_model)))
    return rows


def _training_rows(report: RunReport) -> list[tuple[str, str]]:
    rows = [("Data set", text(report.dataset))]
    if report.dataset_revision is not None:
        rows.append(("Its revision", f"`{text(report.dataset_revision)}`"))
    rows += [
        (f"Split `{text(name)}`", f"{split.num_images:,} images; {text(split.how, limit=200)}")
        for name, split in report.splits.items()
    ]
    return [
        *rows,
        *([("Exported weights", text(report.exported_text, limit=400))] if report.exported else []),
        *(
            [("Epochs", str(report.train.epochs)), ("Steps", f"{report.train.steps:,}")]
            * bool(report.train.steps)
        ),
        ("Seconds", f"{report.train.seconds:,.1f}"),
        ("Images per second", f"{report.train.images_per_second:,.1f}"),
        ("Seed", str(report.seed)),
        *(
            [("Resumed from step", str(report.resumed_from_step))]
            if report.resumed_from_step is not None
            else []
        ),
    ]


def _limits(report: RunReport | None, facts: CardFacts) -> str:
    lines = []
    if facts.class_names:
        lines.append(
            f"- It answers with one of its {len(facts.class_names)} classes whatever the image shows; "
            "it was not taught to say that it does not know."
        )
    if report is not None:
        lines.append(
            "- The scores hold for images like those of the data set above. Other cameras, places or "
            "framings "
            "were not measured."
        )
    licenses = (facts.license_id, None if report is None else report.base_license)
    if any("-nc" in name.lower() for name in licenses if name):
        lines.append(
            "- The weights that it started from may not be used commercially, and so neither may it."
        )
    if not facts.license_id:
        lines.append("- No license is stated: ask the author before using it.")
    return "\n".join(lines)


def _class_rows(score: Score | None) -> tuple[list[Any], int]:
    if score is None or not score.per_class:
        return [], 0
    if len(score.per_class) <= MAX_CLASS_ROWS:
        return list(score.per_class), 0
    worst = sorted(score.per_class, key=lambda row: (row.f1, row.name))[:MAX_CLASS_ROWS]
    return worst, len(score.per_class) - MAX_CLASS_ROWS


def _scores(report: RunReport) -> list[tuple[str, Score]]:
    pairs = (("validation", report.validation), ("test", report.test))
    return [(name, score) for name, score in pairs if score is not None]


def _eval_results(report: RunReport) -> list[EvalResult]:
    split, score = _scores(report)[-1]
    metrics = {"accuracy": score.accuracy, "f1": score.macro_f1}
    if len(report.class_names) > 5:  # top-5 of five classes says nothing
        metrics["top5_accuracy"] = score.top5_accuracy
    names = {"accuracy": "Accuracy", "f1": "Macro F1", "top5_accuracy": "Top-5 accuracy"}
    public = public_report(report)
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=public.dataset if is_hub_dataset(report) else slug(public.dataset),
            dataset_name=" ".join(public.dataset.split()),
            dataset_split=split,
            dataset_revision=report.dataset_revision,
            metric_type=kind,
            metric_name=names[kind],
            metric_value=value,
            metric_args={"num_images": score.num_images}
            | ({"interval_95": list(score.accuracy_interval_95)} if kind == "accuracy" else {}),
        )
        for kind, value in metrics.items()
    ]


def _identifier(name: str) -> str:
    """The name of a model as it can stand in code: any that timm knows is that already."""
    return re.sub(r"\W", "_", name[:100])


def _model_name(facts: CardFacts) -> str:
    return facts.repo_id.split("/")[-1] if facts.repo_id else facts.variant


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values of nested settings as rows: `optim.lr`, `0.1`; what is unset is left out."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value is not None and value not in ("", [], ()):
            rows.append((prefix + str(key), str(value)))
    return rows


def _public(value: Any) -> Any:
    """The value without what tells about the machine: private entries, absolute paths, tokens."""
    if isinstance(value, Mapping):
        return {key: _public(entry) for key, entry in value.items() if not _PRIVATE_KEYS.search(str(key))}
    if isinstance(value, list | tuple):
        return type(value)(_public(entry) for entry in value)
    if not isinstance(value, str):
        return value
    for flavour in (PurePosixPath, PureWindowsPath):
        if (path := flavour(value)).is_absolute() or value.startswith("~"):
            return _last_part(path)
    return _TOKEN.sub("hf_***", value)


def _last_part(path: PurePath) -> str:
    return path.name or "folder"


def package_version() -> str:
    """The installed version of resnet_hub."""
    return version("resnet_hub")
