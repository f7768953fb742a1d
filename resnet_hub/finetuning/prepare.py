"""Everything that can go wrong before training goes wrong here, before anything is written."""

import logging
import os
import select
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets.config
import psutil
from accelerate.utils import gather_object
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from resnet_hub.downloads.access import asking, offline
from resnet_hub.errors import ConfigError
from resnet_hub.files import check_can_hold_files
from resnet_hub.finetuning.batches.augment import fixed_views, parse_auto_augment
from resnet_hub.finetuning.batches.memory_cache import KeptViews
from resnet_hub.finetuning.batches.sampler import EpochPlan
from resnet_hub.finetuning.batches.worker_processes import LoaderOptions
from resnet_hub.finetuning.config.hyperrule import ENOUGH_FOR_BATCHNORM, Situation, decide
from resnet_hub.finetuning.config.options import FinetuneConfig, with_options
from resnet_hub.finetuning.config.settings import Settings
from resnet_hub.finetuning.data.inspection import FactsMemory, Inspector
from resnet_hub.finetuning.data.load import ImageData, load_data
from resnet_hub.finetuning.data.split import Split
from resnet_hub.finetuning.machine.display import Display
from resnet_hub.finetuning.machine.machine import Machine, choose_num_workers, start_machine
from resnet_hub.finetuning.machine.preemption import Preempted, PreemptionWatch
from resnet_hub.finetuning.machine.ranks import Crew
from resnet_hub.finetuning.network.build import (
    StartingPoint,
    build_model,
    check_model,
    check_takes_images,
    evaluation_preprocessing,
    start_from,
    width_of,
)
from resnet_hub.finetuning.network.freezing import check_freezing
from resnet_hub.finetuning.network.teacher import load_teacher
from resnet_hub.finetuning.report.metrics import check_own_metrics
from resnet_hub.finetuning.run_folder.folder import RunFolder
from resnet_hub.finetuning.run_folder.tracking import check_trackers
from resnet_hub.finetuning.training.context import Run
from resnet_hub.finetuning.training.given import NOTHING_GIVEN, Given
from resnet_hub.hub import may_be_public
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.terminal import say

logger = logging.getLogger(__name__)

_COPIES_OF_FEATURES = 3  # as they came, on the device, and standardised


def prepare(asked: FinetuneConfig, watch: PreemptionWatch, given: Given = NOTHING_GIVEN) -> Run:
    """Check the request, understand the data, build the model and decide what was left open.

    Raises UserError, with nothing written, for whatever cannot be carried out.
    """
    with watch.nothing_begun():
        return _prepare(asked, watch, given)


def _prepare(asked: FinetuneConfig, watch: PreemptionWatch, given: Given) -> Run:
    folder = RunFolder(asked.run_dir)
    asked = with_options(asked, output_dir=folder.path)
    _check_request(asked, folder)
    check_model(asked, given.network)
    machine = start_machine(asked, finds_unused=asked.gradual_unfreezing is not None)
    display = Display(is_main=machine.is_main)
    crew = _crew(machine, display, watch)
    data = load_data(asked, Inspector(crew=crew, memory=_images_seen()), source=given.source)
    display.say(data.table())
    _check_validation(asked, data)
    evaluated = next(iter(data.evaluated.values()), None)
    labels = None if evaluated is None else evaluated.labels
    check_own_metrics(given.metrics, labels, num_classes=len(data.class_names))
    if machine.agree_any(watch.requested):
        raise Preempted
    if given.network is None:
        model, start = build_model(asked, class_names=data.class_names)
    else:
        model, start = start_from(given.network, class_names=data.class_names, seed=asked.seed)
    settings = decide(asked, _situation(data, model, start, machine))  # from here on nothing is open
    machine = replace(machine, sync_batchnorm=settings.machine.synchronizes_batchnorm)
    preprocessing = evaluation_preprocessing(
        model, image_size=settings.images.image_size, crop_fraction=asked.crop_pct
    )
    run = Run(
        asked=asked,
        settings=settings,
        machine=machine,
        folder=folder,
        data=_keeping_views(
            data.in_order_of(settings.data), settings, preprocessing, world_size=machine.world_size
        ),
        model=model,
        origin=start,
        preprocessing=preprocessing,
        plan=_plan(settings, machine, num_train=len(data.train)),
        loading=LoaderOptions.of_machine(
            machine,
            num_workers=choose_num_workers(asked.dataloader_num_workers, machine, preprocessing.image_size),
            batch_bytes=_largest_batch_bytes(settings, preprocessing),
            wait_seconds=settings.machine.ddp_timeout,
        ),
        crew=crew,
        display=display,
        watch=watch,
        callbacks=given.callbacks,
        metrics=given.metrics,
        teacher=load_teacher(
            settings.teacher.teacher_model,
            class_names=data.class_names,
            multi_label=data.multi_label,
            ours=preprocessing,
        ),
    )
    _check_run(run, asked)
    display.say(_summary(run))
    _advise_on_small_parts(run)
    return run


def _check_request(asked: FinetuneConfig, folder: RunFolder) -> None:
    """Refuse what no data set and no network could make right, before anything is loaded."""
    folder.check_usable(asked.resume)
    check_trackers(asked.report_to)
    if asked.auto_augment:
        parse_auto_augment(asked.auto_augment)
    for flag, cache in (("image_cache", asked.image_cache), ("feature_cache", asked.feature_cache)):
        if cache is not None:
            check_can_hold_files(cache, flag=flag)
    _check_publishing(asked)


def _check_validation(asked: FinetuneConfig, data: ImageData) -> None:
    if data.validation is None and asked.early_stopping_epochs is not None:
        raise ConfigError(
            "--early_stopping_epochs needs a validation split, and this run has none. Give "
            "--validation_fraction 0.15 or --validation_split, or leave the flag out."
        )


def _situation(data: ImageData, model: nn.Module, start: StartingPoint, machine: Machine) -> Situation:
    return Situation(
        num_train=len(data.train),
        multi_label=data.multi_label,
        model_image_size=Preprocessing.of_model(model).image_size[0],
        model_train_size=start.train_image_size,
        network_width=width_of(model),
        world_size=machine.world_size,
        has_gpus=machine.accelerator.device.type == "cuda",
    )


def _check_run(run: Run, asked: FinetuneConfig) -> None:
    """Refuse what this network, these images or this folder cannot do."""
    settings, machine = run.settings, run.machine
    check_freezing(settings.freezing, run.model)
    micro = settings.schedule.gradient_accumulation_steps
    fewest = run.plan.fewest_in_batch(machine.world_size, micro)
    check_takes_images(
        run.model,
        asked.model_name_or_path,
        settings.images,
        num_channels=run.preprocessing.num_channels,
        num_classes=len(run.data.class_names),
        fewest=fewest * (machine.world_size if machine.sync_batchnorm else 1) if run.total_steps else None,
    )
    _check_features_fit(run)
    run.folder.check_same_run(settings.recorded, facts=run.facts())


def _advise_on_small_parts(run: Run) -> None:
    """Say how several processes can be given more to do, where the rule decided and they have little."""
    asked, schedule, world_size = run.asked, run.settings.schedule, run.machine.world_size
    is_open = asked.images_per_step is None and asked.per_device_train_batch_size is None
    images = schedule.per_device_train_batch_size
    if is_open and run.machine.is_main and world_size > 1 and images < ENOUGH_FOR_BATCHNORM:
        logger.warning(
            "A step of %d images gives each of the %d processes %d. If that leaves GPUs idle, "
            "--images_per_step %d makes fewer and larger steps, at a rate to match.",
            schedule.images_per_step,
            world_size,
            images,
            ENOUGH_FOR_BATCHNORM * world_size,
        )


def _keeping_views(
    data: ImageData, settings: Settings, preprocessing: Preprocessing, *, world_size: int
) -> ImageData:
    """The data with memory for what is decoded in the same way each time, validation images first.

    A split that does not fit is not kept: most of it would be decoded each time all the same.
    """
    left = settings.data.image_memory_gb * 1e9
    reestimates = settings.averaging.reestimate_batchnorm > 0
    fixed = fixed_views(settings.images, preprocessing, reestimates_batchnorm=reestimates)
    wanted = {"validation": [preprocessing], "train": fixed}
    kept: dict[str, Split] = {}
    for name, views in wanted.items():
        split = getattr(data, name)
        if not isinstance(split, Split) or not views:
            continue
        num_images = len(split) if name == "train" else -(-len(split) // world_size)
        num_bytes = KeptViews.num_bytes(num_images, views)
        if num_bytes <= left:
            left -= num_bytes
            kept[name] = replace(split, kept=KeptViews(split.rows, views))
    return replace(data, **kept)


def on_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm_publishing(run: Run) -> None:
    """On a terminal, ask before a run is begun that would make a public repository; every process calls this.

    Where nobody can be asked, the repository becomes a private one.

    Raises ConfigError after a no, with nothing written.
    """
    settings = run.settings.run
    asks = run.machine.is_main and settings.push_to_hub and on_a_terminal()
    asks = asks and not (settings.hub_private_repo or settings.hub_public_repo)
    declined = asks and not may_be_public(settings.hub_model_id, ask=lambda text: _typed(text, run.watch))
    run.stop_if_asked()
    if run.machine.agree_any(declined):
        raise ConfigError(
            f"{settings.hub_model_id} is not to be made public, so nothing was begun. Use "
            "--hub_private_repo, or leave out --push_to_hub."
        )


def _typed(question: str, watch: PreemptionWatch) -> str:
    """The line that a person types, or nothing once the run is asked to stop."""
    say(question, end="", file=sys.stderr)  # stdout is for what the command returns
    if os.name != "nt":  # Windows cannot wait for a terminal; there the signal is seen after the answer
        while not select.select([sys.stdin], [], [], 0.1)[0]:
            if watch.requested:
                return ""
    return sys.stdin.readline()


def _crew(machine: Machine, display: Display, watch: PreemptionWatch) -> Crew:
    def stop_if_asked() -> None:
        if machine.agree_any(watch.requested):
            raise Preempted

    return Crew(
        rank=machine.rank,
        world_size=machine.world_size,
        num_threads=machine.num_cores,
        gather=gather_object,
        stop_if_asked=stop_if_asked,
        display=display,
    )


def _images_seen() -> FactsMemory:
    """What was seen in images, kept beside what `datasets` keeps."""
    return FactsMemory(Path(datasets.config.HF_DATASETS_CACHE) / "resnet_hub" / "images_seen")


def _largest_batch_bytes(settings: Settings, preprocessing: Preprocessing) -> int:
    schedule, size = settings.schedule, max(*settings.images.epoch_sizes, *preprocessing.image_size)
    most = max(schedule.per_device_train_batch_size, schedule.per_device_eval_batch_size)
    return most * preprocessing.num_channels * size**2


def _plan(settings: Settings, machine: Machine, *, num_train: int) -> EpochPlan:
    schedule = settings.schedule
    plan = EpochPlan(
        num_images=num_train,
        global_batch_size=schedule.images_per_step,
        seed=settings.seed,
        copies=schedule.repeated_augmentation,
    )
    plan.check_parts(machine.world_size, schedule.gradient_accumulation_steps)
    return plan


def _check_publishing(config: FinetuneConfig) -> None:
    if not config.push_to_hub:
        if config.hub_model_id or config.hub_private_repo or config.hub_public_repo:
            raise ConfigError(
                "--hub_model_id, --hub_private_repo and --hub_public_repo go with --push_to_hub, which is "
                "not given."
            )
        return
    if offline():
        raise ConfigError("--push_to_hub needs the Hub; HF_HUB_OFFLINE is set. Unset it, or publish later.")
    if get_token() is None:
        raise ConfigError("--push_to_hub needs a token: type `hf auth login` first, or set HF_TOKEN.")
    repo_id = config.repo_id
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(
            f"{repo_id!r} cannot be a repository's name ({error}); use --hub_model_id."
        ) from error
    asking(HfApi().whoami, repo_id=repo_id)


def _check_features_fit(run: Run) -> None:
    """Raise ConfigError if the features that fc is fitted to would not fit into this machine's memory."""
    settings = run.settings
    if not settings.probe.fit_fc_first or settings.data.streaming:  # of a stream a sample is fitted
        return
    model: Any = run.model
    values = settings.probe.feature_views * len(run.data.train) * model.head_hidden_size
    processes = run.machine.local_processes  # each has all of them
    needed, there = 4 * values * _COPIES_OF_FEATURES * processes, psutil.virtual_memory().available
    if needed > there:
        raise ConfigError(
            f"Fitting fc to the features of {len(run.data.train):,} images takes {needed / 1e9:.3g} GB of "
            f"memory, and {there / 1e9:.3g} GB are free. Train without it (--fit_fc_first False), on a part "
            f"(--train_split 'train[:20%]'), or with --streaming, which fits fc to a sample."
        )


def _summary(run: Run) -> str:
    config = run.settings.recorded
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    start = f"from {run.origin.base_model or run.origin.name}" if config.pretrained else "from scratch"
    return "\n".join(
        (
            f"machine   {run.machine.describe()}, {run.loading.num_workers} loader processes",
            f"model     {run.origin.name}, {parameters / 1e6:.2f} M parameters, {start}, new fc for "
            f"{len(run.data.class_names)} classes, {config.image_size} px",
            f"training  {_training_summary(run)}",
            f"folder    {run.folder.path}",
        )
    )


def _training_summary(run: Run) -> str:
    config = run.settings.recorded
    if not run.total_steps:
        views = f", {config.feature_views} views of each image" if config.feature_views > 1 else ""
        weights = f", class weights {config.class_weights}" if config.class_weights != "none" else ""
        return f"linear probe: fc is fitted to features of the frozen network{views}{weights}"
    return (
        f"{'linear probe first, ' if config.fit_fc_first else ''}{config.num_train_epochs} epochs, "
        f"{run.total_steps} steps of {run.plan.global_batch_size} images, "
        f"peak rate {config.learning_rate:.2g}, {config.warmup_steps} warm-up steps, "
        f"weight decay {config.weight_decay}, label smoothing {config.label_smoothing}, "
        f"augmentation {config.augmentation}" + "".join(f", {extra}" for extra in _unusual_options(config))
    )


def _unusual_options(config: FinetuneConfig) -> list[str]:
    """What of the training is not as usual, in a few words each."""
    words = {
        f"{config.per_device_train_batch_size} at a time": (
            config.per_device_train_batch_size != config.images_per_step
        ),
        f"at most {config.max_minutes} minutes": config.max_minutes,
        f"stops after {config.early_stopping_epochs} epochs without a better one": (
            config.early_stopping_epochs
        ),
        f"best by {config.metric_for_best_model}": config.metric_for_best_model != "accuracy",
        f"{config.feature_views} views to fit fc": config.feature_views > 1,
        f"layer decay {config.layer_decay}": config.layer_decay != 1,
        f"gradient clipped to {config.max_grad_norm}": config.max_grad_norm,
        f"weights averaged with decay {config.ema_decay:.4g}": config.ema_decay,
        f"weights averaged over the last {config.average_last_epochs} epochs": config.average_last_epochs,
        f"BatchNorm from {config.reestimate_batchnorm} images": config.reestimate_batchnorm,
        f"images of {config.train_image_size} px": config.train_image_size != config.image_size,
        f"images from {config.first_image_size} px on": config.first_image_size != config.train_image_size,
        f"{config.loss.replace('_', ' ')}": config.loss != "cross_entropy",
        f"{config.optimizer}": config.optimizer != "adamw",
        f"{config.auto_augment}": config.auto_augment,
        f"color jitter {config.color_jitter}": config.color_jitter,
        f"{config.repeated_augmentation} copies of an image in a step": config.repeated_augmentation > 1,
        f"drop path {config.drop_path_rate}": config.drop_path_rate,
        f"class weights {config.class_weights}": config.class_weights != "none",
        f"mirrored with probability {config.horizontal_flip}": (
            config.horizontal_flip != 0.5 and config.augmentation != "none"
        ),
        f"erasing {config.random_erasing}": config.random_erasing,
        f"mixup {config.mixup}": config.mixup,
        f"CutMix {config.cutmix}": config.cutmix,
        "gradient checkpointing": config.gradient_checkpointing,
        "compiled": config.torch_compile,
        f"{config.frozen_stages} stages frozen": config.frozen_stages,
        f"one more stage learns every {config.gradual_unfreezing} epochs": config.gradual_unfreezing,
        f"teacher {config.teacher_model} with weight {config.distillation_weight}": config.teacher_model,
    }
    return [text for text, is_on in words.items() if is_on]
