"""A run's folder: what is in it, whether a run may use it, and the log of events."""

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from resnet_hub.errors import ConfigError
from resnet_hub.files import (
    check_can_hold_files,
    is_leftover,
    open_without_links,
    remove_leftovers,
    write_atomically,
)
from resnet_hub.finetuning.config.options import FinetuneConfig, Resume, with_options
from resnet_hub.finetuning.config.yaml_file import (
    plain_values,
)
from resnet_hub.finetuning.data.sources.open import DIGITS
from resnet_hub.finetuning.run_folder.environment import describe_environment, package_versions
from resnet_hub.finetuning.run_folder.event_log import read_events
from resnet_hub.finetuning.run_folder.records import config_of, read_records, write_records

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)

# A resumed run may differ in these: they change neither the samples nor the steps. The batch size per
# process is compared as images per step, so that a run can resume with another number of processes.
_FREE_TO_CHANGE = frozenset(
    {
        "checkpoint_minutes",
        "dataloader_num_workers",
        "dataset_title",
        "feature_cache",
        "feature_cache_gb",
        "ddp_timeout",
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "hub_model_id",
        "hub_private_repo",
        "hub_public_repo",
        "image_cache",
        "image_cache_gb",
        "image_memory_gb",
        "license",
        "output_dir",
        "per_device_eval_batch_size",
        "per_device_train_batch_size",
        "push_to_hub",
        "report_to",
        "resume",
        "sync_batchnorm",
        "torch_compile",
    }
)

BATCHES = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Options that decide which images BatchNorm sees together."""

_REPORTED = (*BATCHES, "torch_compile")

RATE_RECORD, RATE_PICTURE = "learning_rate.json", "learning_rate.png"

_LOCK = ".lock"
# What a search of the rate may have left, or a run that was killed before it wrote its configuration.
_STARTING_FILES = frozenset(
    {"environment.json", "bad_images.jsonl", "plots", _LOCK, RATE_RECORD, RATE_PICTURE}
)

_HELD: set[Path] = set()
"""Folders that this process has locked: a lock keeps other processes away, and no threads of its own."""


_FILES = (
    *("config.yaml", "environment.json", "metrics.jsonl", "report.json", "report.html", "published.json"),
    *("bad_images.jsonl", "predictions.parquet", "suspects.csv", "example.png", _LOCK),
)


class _Below:
    """The path of a file or folder of a run, by its name there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: "RunFolder", owner: type) -> Path:
        return folder.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files, and the only place that writes its records."""

    path: Path

    config = _Below("config.yaml")  # the resolved configuration
    environment = _Below("environment.json")  # versions, machine and command
    metrics = _Below("metrics.jsonl")  # one JSON object per event
    report = _Below("report.json")  # measurements; the run is finished once it is there
    published = _Below("published.json")  # where the run was published, if it was
    checkpoints = _Below("checkpoints")
    bad_images = _Below("bad_images.jsonl")  # images left out, one JSON object each; absent if there are none
    plots = _Below("plots")
    examples = _Below("plots/examples")  # mistakes and hard examples, `<split>-<row>.webp`
    page = _Below("report.html")  # the report for a person, one file that can be sent as it is
    predictions = _Below("predictions.parquet")  # on the validation and test images
    suspects = _Below("suspects.csv")  # training labels that may be wrong
    rate_record = _Below(RATE_RECORD)  # of a search of the learning rate, before the run
    rate_picture = _Below(RATE_PICTURE)
    export = _Below("export")  # the exported model

    def example(self, split: str, row: int) -> Path:
        """The small picture of an image of a split, by its row in the data set."""
        return self.examples / f"{split}-{row}.webp"

    def begun_config(self) -> FinetuneConfig:
        """The run's configuration, with relative paths as they were where the run was begun.

        Also where the run and its data were moved together: then the folder of the run leads there.
        """
        records = self.records()
        config = config_of(records)
        begun_in = records["environment"].get("cwd")
        places = [] if begun_in is None else [Path(begun_in)]
        run, output_dir = self.path.resolve(), config.run_dir
        if not output_dir.is_absolute() and run.parts[-len(output_dir.parts) :] == output_dir.parts:
            places.append(run.parents[len(output_dir.parts) - 1])
        found: dict[str, Any] = {}
        for name in ("dataset_name", "train_dir", "validation_dir", "test_dir"):
            value = getattr(config, name)
            known = [place / value for place in places if value not in (None, DIGITS)]
            if there := next((path for path in known if path.exists()), None):
                found[name] = str(there)
        return with_options(config, **found)

    @property
    def is_finished(self) -> bool:
        """Whether the report is there; one that is damaged is made again from the last checkpoint."""
        try:
            return isinstance(json.loads(self.report.read_text(encoding="utf-8")), dict)
        except OSError:  # not there, or a folder
            return False
        except ValueError:
            logger.warning("%s is damaged; the run is measured again.", self.report)
            return False

    def records(self) -> dict[str, Any]:
        """`config` and `environment` of the run as it began, also from a checkpoint; empty where none has.

        Raises ConfigError, with what to do, where they are damaged.
        """
        return read_records(self.config, self.environment, self.checkpoints)

    def _check_kinds(self) -> None:
        """Raise ConfigError for a folder where a run writes a file, or a file where it has a folder."""
        for path in (*(self.path / name for name in _FILES), *self.plots.glob("*.png")):
            if path.is_dir():
                raise ConfigError(f"{path} is a folder, and a run writes a file there. Move it away.")
        for path in (self.plots, self.examples, self.checkpoints, self.export):
            if path.exists() and not path.is_dir():
                raise ConfigError(f"{path} is a file, and a run has a folder there. Move it away.")

    def check_usable(self, resume: Resume) -> None:
        """Raise ConfigError if a run may not use this folder; writes nothing."""
        if self.is_finished:
            raise ConfigError(
                f"--output_dir {self.path} holds a finished run. Its report is {self.report}, its model "
                f"{self.export}. For a new run name another --output_dir."
            )
        check_can_hold_files(self.path, flag="output_dir")
        self._check_kinds()
        is_unfinished = bool(self.records())
        if is_unfinished and resume == "never":
            raise ConfigError(
                f"--output_dir {self.path} holds an unfinished run, which --resume never leaves alone. "
                f"Name another --output_dir, or leave --resume out to resume it."
            )
        if not is_unfinished and resume == "must":
            raise ConfigError(f"--resume must: there is no unfinished run in --output_dir {self.path}.")
        if resume == "must" and not any(self.checkpoints.glob("step-*")):
            raise ConfigError(
                f"--resume must: there is no checkpoint in {self.checkpoints} to resume from. Leave "
                f"--resume out to start this run over."
            )
        if not is_unfinished and self._has_foreign_files():
            raise ConfigError(
                f"--output_dir {self.path} is not empty and holds no run of ours. Name a new folder; "
                f"nothing in it was touched."
            )

    def _has_foreign_files(self) -> bool:
        paths = self.path.iterdir() if self.path.exists() else ()
        return any(path.name not in _STARTING_FILES and not is_leftover(path) for path in paths)

    def check_free_for_search(self) -> None:
        """Raise ConfigError if a search of the learning rate would write over something or come too late."""
        if self.config.exists():
            raise ConfigError(
                f"--find_learning_rate: --output_dir {self.path} holds a run that has its rate already. Name "
                f"another --output_dir."
            )
        if self.rate_record.exists():
            raise ConfigError(
                f"--find_learning_rate: {self.rate_record} is there from an earlier search. Remove it, or "
                f"name another --output_dir."
            )

    def awaits_publishing(self, config: FinetuneConfig) -> bool:
        """Whether the folder holds a finished run of this configuration, all of it but its publication.

        Processes besides the main one do not publish, so for them it does not matter whether that one has
        done it by now.
        """
        if not (config.push_to_hub and self.is_finished):
            return False
        if self.published.exists() and os.environ.get("RANK", "0") == "0":
            return False
        return self._is_of(config)

    def is_free_for(self, config: FinetuneConfig) -> bool:
        """Whether a run of this configuration can begin here, resume, or only has to be published."""
        if self.is_finished:
            return self.awaits_publishing(config)
        return self._is_of(config) if self.records() else not self._has_foreign_files()

    def _is_of(self, config: FinetuneConfig) -> bool:
        """Whether the run here was asked for by this configuration; options left open count as the same."""
        before = plain_values(config_of(self.records()))
        typed = {name: value for name, value in plain_values(config).items() if value is not None}
        return all(before[name] == value for name, value in typed.items() if name not in _FREE_TO_CHANGE)

    def note_publication(self, record: Mapping[str, Any]) -> None:
        """Write down where the run was published."""
        write_atomically(self.published, json.dumps(record, indent=2) + "\n")

    def check_same_run(self, config: FinetuneConfig, *, facts: Mapping[str, Any]) -> None:
        """Raise ConfigError, with the differences, if the folder holds an unfinished run of another kind.

        `facts` are what a run rests on besides its configuration: fingerprint of the data, class names,
        images per step.
        """
        records = self.records()
        if not records:
            return
        before = plain_values(config_of(records))
        now = plain_values(config)
        pairs = {name: (before[name], now[name]) for name in now if name not in _FREE_TO_CHANGE}
        old_facts = records["environment"]["facts"]
        pairs |= {name: (old_facts.get(name), value) for name, value in facts.items()}
        differences = [f"{name} was {old!r}, is {new!r}" for name, (old, new) in pairs.items() if old != new]
        if differences:
            raise ConfigError(
                f"--output_dir {self.path} holds an unfinished run that is not this one: "
                f"{'; '.join(differences)}. Type the same command to resume it "
                f"(--config {self.config}), or name another --output_dir."
            )

    def begin(
        self,
        config: FinetuneConfig,
        *,
        facts: Mapping[str, Any],
        machine: Mapping[str, Any],
        bad_images: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write configuration, environment and left-out images, unless an unfinished run has them already.

        Raises ConfigError if another process has used the folder since it was checked.
        """
        self.check_usable(config.resume)
        self.check_same_run(config, facts=facts)
        self.plots.mkdir(parents=True, exist_ok=True)
        if records := self.records():
            write_records(records, self.config, self.environment, again=True)
            return
        # Of the working folder relative paths start; the report, which travels, does without it.
        record = {"facts": facts, "machine": machine, "cwd": str(Path.cwd())} | describe_environment()
        self.write_bad_images(bad_images)
        records = {"config": plain_values(config), "environment": record}
        write_records(records, self.config, self.environment, again=False)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep other processes from running into this folder, which is made if it is not there.

        The lock belongs to this process, not to those that it starts, and ends with it however it ends.
        Raises ConfigError if another process, or another thread of this one, has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        place = self.path.resolve()
        with self._open_lock() as file:
            if place in _HELD or not _lock(file):
                raise ConfigError(
                    f"--output_dir {self.path} is in use: another process is fine-tuning into it. Wait for "
                    f"it, stop it (on SIGTERM it saves and ends), or name another --output_dir."
                )
            _HELD.add(place)
            try:
                remove_leftovers(self.path)
                yield
                (self.path / _LOCK).unlink(missing_ok=True)
            finally:
                _HELD.discard(place)

    def _open_lock(self) -> IO[str]:
        try:
            return open_without_links(self.path / _LOCK, "w")
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise ConfigError(
                f"{self.path / _LOCK} is a link, and a lock would empty the file behind it. Remove the link."
            ) from None

    def changes_since_begin(
        self, config: FinetuneConfig, machine: Mapping[str, Any]
    ) -> dict[str, tuple[Any, Any]]:
        """Before and now of what is not as when the run began: machine, packages, batches, compiling."""
        records = self.records()
        begun, options_begun = records["environment"], plain_values(config_of(records))
        before = begun["machine"] | begun["versions"] | {name: options_begun[name] for name in _REPORTED}
        options = plain_values(config)
        now = dict(machine) | package_versions() | {name: options[name] for name in _REPORTED}
        return {name: (before.get(name), value) for name, value in now.items() if before.get(name) != value}

    def write_bad_images(self, images: Sequence[Mapping[str, Any]]) -> None:
        """Write the list of images that were left out; an empty one is no file."""
        if images:
            write_atomically(self.bad_images, "".join(map(_as_line, images)))
        else:
            self.bad_images.unlink(missing_ok=True)

    def add_bad_images(self, images: Sequence[Mapping[str, Any]]) -> None:
        """Append to the list of images that were left out."""
        with open_without_links(self.bad_images, "a") as file:
            file.writelines(map(_as_line, images))

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        return read_events(self.metrics)


def _as_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _lock(file: IO[str]) -> bool:
    """Whether this process has the file's lock now; also where a disk has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        logger.warning("%s cannot be locked (%s): do not start two runs into it.", file.name, error)
    return True
