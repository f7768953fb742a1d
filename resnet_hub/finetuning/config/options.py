"""What was asked for: one flat, frozen record whose field names are the flags and the YAML keys.

Precedence: the defaults here < `--recipe` < `--config FILE` < flags. None means "decide for me": the rule
(`hyperrule.py`) decides from the model and the data set and returns `Settings`. The record is made of
sections, so that a part that reads what was asked can be given its own.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from resnet_hub.files import expanded, expanded_text
from resnet_hub.finetuning.config.checks import check_values

Resume = Literal["auto", "never", "must"]
Precision = Literal["auto", "no", "bf16", "fp16"]
Augmentation = Literal["none", "crop", "light", "randaugment", "trivialaugment", "3-augment"]
SyncBatchNorm = Literal["auto", "yes", "no"]
ClassWeights = Literal["none", "balanced"]
Loss = Literal["cross_entropy", "binary_cross_entropy"]
Optimizer = Literal["adamw", "sgd", "momentum", "lamb"]
Metric = Literal["accuracy", "macro_f1", "mean_average_precision", "loss"]


@dataclass(frozen=True, kw_only=True)
class SeededOptions:
    """What everything random follows from."""

    seed: int = 0
    """Decides splits, order, augmentation and initial weights."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(SeededOptions):
    """The network that a run starts from."""

    model_name_or_path: str = "my_resnet50"
    """ResNet of the family or of timm (with a tag: my_resnet50.a1_in1k), a model folder, or user/repo.
    --model is short for it."""
    pretrained: bool = True
    """Start from pretrained weights; --no-pretrained starts from random ones."""
    drop_path_rate: float = 0.0
    """Stochastic depth (Huang et al. 2016): probability that the last block is left out; 0 for the first."""


@dataclass(frozen=True, kw_only=True)
class DataOptions(SeededOptions):
    """Which images and labels there are, and how they are read."""

    dataset_name: str | None = None
    """Hub id; folder of classes, images and a table, or Parquet; .csv, .zip, .tar, .parquet; or `digits`."""
    dataset_config_name: str | None = None
    """Configuration (subset) of the Hub data set."""
    dataset_revision: str | None = None
    """Branch, tag or commit of the Hub data set."""
    train_dir: Path | None = None
    """Folder of training images with a folder per class; instead of --dataset_name."""
    validation_dir: Path | None = None
    """Folder of validation images with the same class folders as --train_dir."""
    test_dir: Path | None = None
    """Folder of test images with the same class folders as --train_dir; read once, at the end."""
    dataset_title: str | None = None
    """Name of a data set given as folders, for report and card; default: the name of its folder."""
    train_split: str | None = None
    """Name or slice of the training split (`train[:80%]`); found by name if not given."""
    validation_split: str | None = None
    """Name or slice of the validation split; found by name, else taken from train, if not given."""
    test_split: str | None = None
    """Name or slice of the test split; found by name, else taken from train, if not given."""
    validation_fraction: float = 0.15
    """Share of the training split that becomes validation when the data set has none (stratified)."""
    test_fraction: float = 0.15
    """Share of the training split that becomes test when the data set has none (stratified); 0 for none."""
    max_train_samples: int | None = None
    """Train on at most this many images, drawn stratified by `seed`, for a quick try. Default: all."""
    max_eval_samples: int | None = None
    """Validate and test on at most this many images each, drawn stratified by `seed`. Default: all."""
    image_column_name: str | None = None
    """Column that holds the images; found by its type if not given."""
    label_column_name: str | None = None
    """Column that holds the labels; found by its type, then by name, if not given."""
    max_bad_images: float = 0.01
    """Share of unreadable images that may be left out, with a list; above it the run stops."""
    streaming: bool = False
    """Read training images as they are needed, with bounded memory and no copy on disk."""
    shuffle_buffer: int | None = None
    """Images in memory, of all processes together, that --streaming shuffles among themselves; 4096."""
    stream_parts: int | None = None
    """Parts of the stream that are read side by side, shared by all processes; 8 or a few more."""
    image_cache: Path | None = None
    """Folder that keeps training images decoded and reduced, for many epochs of large images."""
    image_cache_gb: float = 50.0
    """Gigabytes that --image_cache may take; images beyond them are decoded anew each time."""
    image_memory_gb: float = 1.0
    """Gigabytes, per process, for validation and small training images, which are then decoded once."""

    def __post_init__(self) -> None:
        """Understand `~`."""
        _expand_paths(self)

    @property
    def dataset(self) -> str:
        """What the user called the data set: its name, the training folder, or the title of one in memory."""
        return self.dataset_name or str(self.train_dir or self.dataset_title or "images")


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What happens to images on their way into the network."""

    image_size: int | None = None
    """Height and width in pixels for training and evaluation; the weights' own two if not given."""
    train_image_size: int | None = None
    """Size of training images; --image_size, or without it the one that the weights were trained at, if not
    given. Smaller ones train faster (Touvron et al. 2019)."""
    crop_pct: float | None = None
    """Share of the resized short side that evaluation's crop keeps; the model's own if not given."""
    augmentation: Augmentation | None = None
    """Training augmentation; chosen from the image size if not given."""
    strong_augmentation: bool = False
    """Let the rule choose TrivialAugment (Müller and Hutter 2021), if the network is wide enough for it."""
    auto_augment: str | None = None
    """Automatic augmentation by timm, in its words: rand-m7-mstd0.5-inc1, augmix-m3-w3, original, ..."""
    color_jitter: float = 0.0
    """Change brightness, contrast and saturation by up to this share."""
    horizontal_flip: float = 0.5
    """Probability of mirroring a training image; 0 for digits, text, and everything with a handedness."""
    random_erasing: float = 0.0
    """Probability of erasing a rectangle of a training image."""
    mixup: float = 0.0
    """Alpha of mixup (Zhang et al. 2018); 0 is off."""
    cutmix: float = 0.0
    """Alpha of CutMix (Yun et al. 2019); 0 is off."""
    repeated_augmentation: int = 1
    """Copies of an image in a step, each augmented anew (Berman et al. 2019); an epoch has as many steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How long, by which steps, and towards what."""

    fit_fc_first: bool | None = None
    """Fit the new fc on features of the frozen network first; done with pretrained weights if not given."""
    feature_views: int = 1
    """Views of each training image that fc is fitted on: evaluation's, and further ones augmented."""
    feature_cache: Path | None = None
    """Folder that keeps features of the frozen network; later runs compute only those of other images."""
    feature_cache_gb: float = 10.0
    """Gigabytes that --feature_cache may take; what has not been used for longest is removed first."""
    num_train_epochs: int | None = None
    """Passes over the training split; from its size if not given; 0 leaves it at the fitted fc."""
    max_train_steps: int | None = None
    """End after this many optimizer steps, with the schedule fitted to it."""
    max_minutes: float | None = None
    """Train for this time at most, fitting fc and validation included, with the schedule fitted to it."""
    images_per_step: int | None = None
    """Images per optimizer step, over all processes; from the size of the data set if not given."""
    per_device_train_batch_size: int | None = None
    """Images per process and micro-batch; with --images_per_step as many micro-batches as that takes."""
    per_device_eval_batch_size: int | None = None
    """Images per process in evaluation."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step."""
    optimizer: Optimizer = "adamw"
    """adamw, sgd (with Nesterov's momentum of 0.9), momentum (without Nesterov), or lamb."""
    learning_rate: float | None = None
    """Peak learning rate; from the batch size and on whether weights are pretrained if not given."""
    weight_decay: float | None = None
    """Weight decay of convolution and fc weights; norms and biases have none."""
    warmup_steps: int | None = None
    """Steps over which the rate rises linearly; a twentieth of the run if not given."""
    loss: Loss = "cross_entropy"
    """Of classes that exclude each other; images with several labels always have the binary one."""
    bce_target_threshold: float | None = None
    """With binary cross-entropy, targets above this are 1 and others 0, after smoothing and mixing."""
    label_smoothing: float | None = None
    """Share of the target spread over all classes (Szegedy et al. 2016); 0.1 if not given."""
    max_grad_norm: float | None = None
    """Clip the norm of the gradient to this."""
    layer_decay: float | None = None
    """Rate of each block as a fraction of the rate of the block above it; 1 for the same rate everywhere."""
    frozen_stages: int = 0
    """Stages that stay as they are, counted from the stem; 1 is the stem, 2 layer1 too."""
    gradual_unfreezing: int | None = None
    """Train fc and the last stage first, and one more stage every so many epochs."""
    teacher_model: str | None = None
    """Learn from this model's answers too: a model of timm with weights, a run, a folder, or user/repo."""
    distillation_weight: float = 0.5
    """Share of the loss that is the distance from the teacher's answers."""
    distillation_temperature: float = 1.0
    """Divides the logits of both before they are compared (Hinton et al. 2015)."""
    class_weights: ClassWeights = "none"
    """balanced: rare classes weigh as much in the loss as frequent ones."""
    ema: bool = False
    """Validate and export an exponential moving average of the weights in place of the last ones."""
    ema_decay: float | None = None
    """Share of the average that a step keeps; from the number of steps with --ema if not given; 0 is off."""
    average_last_epochs: int = 0
    """Validate and export the mean of the weights at the ends of this many last epochs."""
    reestimate_batchnorm: int | None = None
    """Training images to take BatchNorm's statistics from before each validation; 2048 at most for averages
    and where images grow, none otherwise, if not given."""
    low_resolution_first: bool = False
    """Begin with smaller training images and end with full ones; saves a sixth of the computation."""
    first_image_size: int | None = None
    """Size in pixels that training begins with; that of all training images, or less with
    --low_resolution_first."""
    long_schedule: bool = False
    """Twice the epochs that the size of the data set asks for."""
    metric_for_best_model: Metric | None = None
    """Of validation, which the kept weights are best by; accuracy if not given. macro_f1 with
    --class_weights, mean_average_precision for images with several labels."""
    early_stopping_epochs: int | None = None
    """Stop when that metric has not improved for this many epochs since warm-up and growth of images."""
    gradient_checkpointing: bool = False
    """Compute features again in the backward pass: a third more computation, less memory."""


@dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """What the run computes on."""

    mixed_precision: Precision = "auto"
    """auto: bf16 where the processor computes in it, else no."""
    torch_compile: bool = False
    """Compile training steps, for long runs on GPUs; takes a minute for each size of images and batches."""
    sync_batchnorm: SyncBatchNorm = "auto"
    """BatchNorm over the batches of all processes; auto: not on GPUs that have 32 images each."""
    dataloader_num_workers: int | None = None
    """Processes that load images, per training process; from the cores if not given."""
    ddp_timeout: float = 600.0
    """Seconds to wait for another process of the run, or for a batch, before it counts as lost."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the run's files are, and who hears of it."""

    output_dir: Path | None = None
    """Folder of the run; runs/<data set>_<model> if not given."""
    resume: Resume = "auto"
    """auto: go on with an unfinished run in output_dir; must: only go on; never: only start anew."""
    checkpoint_minutes: float = 10.0
    """Write a checkpoint at least this often, besides one per epoch."""
    report_to: str = "none"
    """Trackers of accelerate, comma-separated: tensorboard, wandb, trackio, ...; all: those installed."""
    license: str | None = None
    """License of the exported weights: an id of the Hub, such as apache-2.0, or other. Default: that of the
    weights that training starts from."""
    push_to_hub: bool = False
    """Publish the export at the end. A new repository is public only after a yes on the terminal, or with
    --hub_public_repo; private otherwise."""
    hub_model_id: str | None = None
    """Repository to publish to: user/name; <you>/<name of output_dir> if not given."""
    hub_private_repo: bool = False
    """Create that repository private, without asking."""
    hub_public_repo: bool = False
    """Create that repository public, without asking."""


# Dataclasses take the fields of their last base first: the model comes first in files and in --help.
@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunOptions, MachineOptions, TrainingOptions, ImageOptions, DataOptions, ModelOptions):
    """What to fine-tune, on what, and how. Field docstrings are the help texts of the flags."""

    def __post_init__(self) -> None:
        """Understand `~`, and refuse values that no run could use."""
        _expand_paths(self)
        check_values(self)

    @property
    def run_dir(self) -> Path:
        """The folder of the run; by default one of the data set and the model."""
        if self.output_dir is not None:
            return self.output_dir
        parts = (Path(self.dataset).name, Path(self.model_name_or_path).name)
        return Path("runs") / "_".join(part.replace(":", "-") for part in parts)

    @property
    def repo_id(self) -> str:
        """The repository that the run is published to; without an owner it is the token's."""
        return self.hub_model_id or self.run_dir.name


NAMES_OR_PATHS = ("model_name_or_path", "teacher_model", "dataset_name")
"""Options that are text, and may be a path."""


def _expand_paths(options: Any) -> None:
    """Make paths of what was given as text, each with `~` replaced by the home folder."""
    for each in fields(options):
        value = getattr(options, each.name)
        if isinstance(value, str | Path) and each.type == Path | None:
            object.__setattr__(options, each.name, expanded(value))
        elif isinstance(value, str | Path) and each.name in NAMES_OR_PATHS:
            object.__setattr__(options, each.name, expanded_text(value))


FIELD_NAMES = tuple(field.name for field in fields(FinetuneConfig))


def with_options(config: FinetuneConfig, **options: Any) -> FinetuneConfig:
    """A copy of the configuration with some options replaced, checked again."""
    return replace(config, **options)
