"""Fine-tuning with objects: a network, images in memory, callbacks; and a result to look at and to use."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from resnet_hub.errors import ConfigError, DataError
from resnet_hub.finetuning.config.options import FinetuneConfig, with_options
from resnet_hub.finetuning.config.yaml_file import load_recipe, options_from_mapping
from resnet_hub.finetuning.data.sources import open_in_memory
from resnet_hub.finetuning.data.sources.local import no_such_folder
from resnet_hub.finetuning.finish import describe_score
from resnet_hub.finetuning.machine.machine import machine_as_found
from resnet_hub.finetuning.network.build import architecture_of, check_network
from resnet_hub.finetuning.report.metrics import OwnMetrics
from resnet_hub.finetuning.report.page import page_fragment, page_of_run
from resnet_hub.finetuning.run import finetune as carry_out
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.training.given import Callbacks, Event, Given
from resnet_hub.hub import load
from resnet_hub.prediction.classify import classify_all
from resnet_hub.results import RunReport

# Options that the first arguments stand for.
_ARGUMENTS = {"model_name_or_path": "model", "dataset_name": "dataset"}


@dataclass(frozen=True, repr=False)
class FinetuneResult:
    """A finished run: what was measured, the fine-tuned model, and the folder that holds both."""

    report: RunReport
    model: nn.Module
    """In evaluation mode, with its class names and preprocessing; ready for `resnet_hub.classify`."""
    folder: Path

    def classify(self, images: Any, *, top_k: int = 5) -> list[Any]:
        """The most probable classes of each image, best first; of a single image, its own list.

        Images are paths, the bytes of files, PIL images or uint8 arrays (height, width, 3).
        """
        is_one = isinstance(images, str | Path | bytes | bytearray | memoryview | Image.Image | Mapping)
        if isinstance(images, np.ndarray) and images.dtype == np.uint8:
            is_one = images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
        many = [images] if is_one else list(images)
        found = classify_all(self.model, many, top_k=top_k)
        return found[0] if is_one else found

    def _repr_html_(self) -> str:
        """Scores, learning curves and mistakes, as the page of the run has them."""
        return page_fragment(page_of_run(RunFolder(self.folder), self.report))

    def __repr__(self) -> str:
        score = self.report.test or self.report.validation
        split = "test" if self.report.test else "validation"
        measured = "not measured" if score is None else f"{split} {describe_score(score)}"
        return f"<{self.report.model} on {self.report.dataset}: {measured}; {self.folder}>"


def finetune(
    model: str | Path | nn.Module,
    dataset: Any = None,
    *,
    output_dir: str | Path | None = None,
    recipe: str | None = "balanced",
    callbacks: Iterable[Any] | Callable[[Event], Any] = (),
    metrics: OwnMetrics | None = None,
    **options: Any,
) -> FinetuneResult:
    """Fine-tune a model on a data set, and measure, export and describe the result.

    The same call resumes a run that was interrupted. Every process of a launch makes it.

    Args:
        model: A name, folder or Hub repository, or a network of `timm.create_model`, whose weights are the
            start; the network itself is left as it is.
        dataset: A name, folder or file; a `datasets.Dataset` or `DatasetDict`; a pandas DataFrame with a
            column of paths or images and one of labels; a list of (image or path, label); or a mapping from
            split to one of these. None with the option `train_dir`.
        output_dir: Folder of the run. Default: a new one, `runs/<data set>_<model>`.
        recipe: A named set of options: quick, balanced or best.
        callbacks: Functions of an event, a dictionary as a line of `metrics.jsonl`, or objects with a method
            `on_event`. One that returns True ends training there, with a report; what one raises is raised
            after a checkpoint is written.
        metrics: Name -> function of labels (images,) and probabilities (images, classes), which gives a
            number; of multi-label data, labels are (images, classes) of zeros and ones.
        **options: The flags of the command line by name, such as `num_train_epochs=5`.

    Raises:
        UserError: The request cannot be carried out; nothing was written.
        RunError: The run had begun and cannot go on; what it has written stays.
        Preempted: A signal asked to stop; a checkpoint was written, and the same call resumes. Interrupting
            the kernel of a notebook does the same, as KeyboardInterrupt.
    """
    network = None if isinstance(model, str | Path) else check_network(model)
    name = str(model) if network is None else architecture_of(network)
    config = _configuration(name, dataset, output_dir, recipe, options)
    is_named = dataset is None or isinstance(dataset, str | Path)
    for name in () if is_named else ("train_dir", "dataset_config_name", "dataset_revision"):
        if getattr(config, name) is not None:
            raise ConfigError(f"The option {name} is for data sets with a name, and an object was given.")
    source = None if is_named else open_in_memory(dataset, config)
    given = Given(network=network, source=source, callbacks=Callbacks(callbacks), metrics=metrics or {})
    with machine_as_found():
        report = carry_out(config, given)
    folder = RunFolder(config.run_dir)
    return FinetuneResult(report=report, model=load(folder.export), folder=folder.path)


def _configuration(
    model: str,
    dataset: Any,
    output_dir: str | Path | None,
    recipe: str | None,
    options: Mapping[str, Any],
) -> FinetuneConfig:
    """What is asked for as a configuration could ask for it."""
    plain = {name: _as_written(value) for name, value in options.items()}
    given = options_from_mapping(plain, source="finetune()")
    for name in given.keys() & _ARGUMENTS.keys():
        raise ConfigError(f"finetune() has no option {name}. Give it as the argument {_ARGUMENTS[name]}.")
    given["model_name_or_path"] = model
    if isinstance(dataset, Path) and not dataset.expanduser().exists():
        raise DataError(no_such_folder("dataset_name", dataset.expanduser()))
    if isinstance(dataset, str | Path):
        given["dataset_name"] = str(dataset)
    values = (load_recipe(recipe) if recipe else {}) | given
    if output_dir is not None:
        return FinetuneConfig(**values, output_dir=Path(output_dir))
    config = FinetuneConfig(**values)
    return with_options(config, output_dir=_free_folder(config))


def _as_written(value: Any) -> Any:
    """A value of Python as a file of options has it: a list as text with commas, NumPy's numbers as plain."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return value.item() if isinstance(value, np.generic) else value


def _free_folder(config: FinetuneConfig) -> Path:
    """`runs/<data set>_<model>`, or with -2, -3, ... if a finished or another run is there."""
    usual = config.run_dir
    others = (usual.with_name(f"{usual.name}-{number}") for number in count(2))
    return next(path for path in chain([usual], others) if RunFolder(path).is_free_for(config))
