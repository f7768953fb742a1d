"""The published weights that the family can use: where they are, their license, their input, their accuracy.

Facts are those of timm 1.0.31; tests compare them with the installed timm and torchvision. Every row belongs
to timm's model of that name, and so to the variant `my_` + name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

_TIMM = "https://github.com/huggingface/pytorch-image-models"
_GLUON = "https://cv.gluon.ai/model_zoo/classification.html"
_TORCHVISION = "https://github.com/pytorch/vision"
_SEMI_SUPERVISED = "https://github.com/facebookresearch/semi-supervised-ImageNet1K-models"
_WEAKLY_SUPERVISED = "https://github.com/facebookresearch/WSL-Images"
_BAMBOO = "https://github.com/ZhangYuanhan-AI/Bamboo"
_STRIKES_BACK = "arXiv:2110.00476"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)

FREE_LICENSES = frozenset({"apache-2.0", "bsd-3-clause", "mit"})

ACCURACY_SOURCE = (
    "https://github.com/huggingface/pytorch-image-models/blob/aa4b5850c1543fa488abf260f18390eda46cf85d/results/"
    "results-imagenet.csv"
)
"""Where the accuracies are from: ImageNet-1k validation images, all measured by timm's `validate.py`."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What weights that were trained alike have in common; sizes are in pixels."""

    license: str | None
    origin_url: str | None
    paper_ids: str | None = None
    train_size: int = 224
    test_size: int | None = None
    """Size at which the accuracy was measured, where it is not the size of training."""
    crop_pct: float = 0.875
    test_crop_pct: float | None = None
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = _IMAGENET_MEAN
    std: tuple[float, float, float] = _IMAGENET_STD
    num_classes: int = 1000
    file: str | None = None
    """Name of the file in the package, for weights that come with it; others are on the Hub."""


@dataclass(frozen=True, kw_only=True)
class Weights(Recipe):
    """One published set of weights."""

    name: str
    """timm's name with its tag: `resnet50.a1_in1k`."""
    top1: float | None
    """Percent of the 50,000 ImageNet-1k validation images at `accuracy_size`; None if none is published."""
    top5: float | None

    @property
    def architecture(self) -> str:
        """The network by timm's name: `resnet50`."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The part after the first dot: `a1_in1k`."""
        return self.name.partition(".")[2]

    @property
    def repo_id(self) -> str | None:
        """The repository on the Hub; None for weights that come in the package."""
        return None if self.file else f"timm/{self.name}"

    @property
    def is_free(self) -> bool:
        """Whether commercial use is allowed; False also where no license is stated."""
        return self.license in FREE_LICENSES

    @property
    def accuracy_size(self) -> int:
        """Size of the images, in pixels, at which the accuracy was measured."""
        return self.test_size or self.train_size

    @property
    def accuracy_crop_pct(self) -> float:
        """Share of the resized image that was seen when the accuracy was measured."""
        return self.test_crop_pct or self.crop_pct


_PUBLISHED: tuple[tuple[Recipe, Mapping[str, tuple[float, float] | None]], ...] = (
    # timm's procedures A1 and A2 ("ResNet strikes back"), and B, C and D
    (
        Recipe(
            license="apache-2.0",
            origin_url=_TIMM,
            paper_ids=_STRIKES_BACK,
            test_size=288,
            crop_pct=0.95,
            test_crop_pct=1.0,
        ),
        {
            "ecaresnet50t.a1_in1k": (82.11, 95.654),
            "ecaresnet50t.a2_in1k": (81.682, 95.524),
            "resnet18.a1_in1k": (73.164, 91.054),
            "resnet18.a2_in1k": (72.364, 90.62),
            "resnet34.a1_in1k": (77.93, 93.758),
            "resnet34.a2_in1k": (77.15, 93.288),
            "resnet50.a1_in1k": (81.24, 95.112),
            "resnet50.a2_in1k": (80.774, 94.978),
            "resnet50.b1k_in1k": (80.708, 95.43),
            "resnet50.b2k_in1k": (80.466, 95.306),
            "resnet50.c1_in1k": (80.928, 95.554),
            "resnet50.c2_in1k": (80.862, 95.53),
            "resnet50.d_in1k": (81.012, 95.456),
            "resnet50d.a1_in1k": (81.466, 95.218),
            "resnet50d.a2_in1k": (81.164, 95.1),
            "resnet101.a1_in1k": (82.326, 95.63),
            "resnet101.a1h_in1k": (82.796, 96.324),
            "resnet101.a2_in1k": (82.218, 95.74),
            "resnet152.a1_in1k": (82.742, 95.734),
            "resnet152.a1h_in1k": (83.494, 96.522),
            "resnet152.a2_in1k": (82.614, 95.748),
            "resnetaa50.a1h_in1k": (81.618, 95.794),
            "resnext50_32x4d.a1_in1k": (81.48, 95.152),
            "resnext50_32x4d.a1h_in1k": (82.016, 95.934),
            "resnext50_32x4d.a2_in1k": (81.304, 95.114),
            "resnext101_64x4d.c1_in1k": (83.158, 96.37),
            "seresnet50.a1_in1k": (81.114, 95.122),
            "seresnet50.a2_in1k": (81.094, 95.23),
        },
    ),
    # timm with RandAugment or AugMix
    (
        Recipe(license="apache-2.0", origin_url=_TIMM, test_size=288, test_crop_pct=0.95),
        {
            "resnet18d.ra2_in1k": (73.79, 91.834),
            "resnet26.bt_in1k": (76.384, 93.178),
            "resnet34.bt_in1k": (76.506, 93.342),
            "resnet34d.ra2_in1k": (78.44, 94.348),
            "resnet50.bt_in1k": (79.652, 94.908),
            "resnet50.ra_in1k": (79.864, 94.97),
            "resnet50.ram_in1k": (79.982, 95.038),
            "resnet50d.ra2_in1k": (81.354, 95.742),
            "resnetblur50.bt_in1k": (80.248, 95.2),
            "resnext50_32x4d.ra_in1k": (80.72, 95.344),
            "seresnet50.ra2_in1k": (81.288, 95.652),
            "seresnext50_32x4d.racm_in1k": (82.186, 96.146),
            "wide_resnet50_2.racm_in1k": (82.26, 96.062),
        },
    ),
    # MXNet Gluon's model zoo
    (
        Recipe(license="apache-2.0", origin_url=_GLUON),
        {
            "resnet18.gluon_in1k": (70.844, 89.75),
            "resnet34.gluon_in1k": (74.574, 91.988),
            "resnet50.gluon_in1k": (77.58, 93.704),
            "resnet50d.gluon_in1k": (79.08, 94.458),
            "resnet101.gluon_in1k": (79.306, 94.538),
            "resnet101d.gluon_in1k": (80.466, 95.034),
            "resnet152.gluon_in1k": (79.712, 94.72),
            "resnet152d.gluon_in1k": (80.476, 95.194),
            "resnext50_32x4d.gluon_in1k": (79.354, 94.424),
            "resnext101_32x4d.gluon_in1k": (80.336, 94.908),
            "resnext101_64x4d.gluon_in1k": (80.64, 95.0),
            "seresnext50_32x4d.gluon_in1k": (79.916, 94.816),
        },
    ),
    # Facebook, semi-supervised on YFCC100M or a billion images; not for commercial use
    (
        Recipe(license="cc-by-nc-4.0", origin_url=_SEMI_SUPERVISED, interpolation="bilinear"),
        {
            "resnet18.fb_ssl_yfcc100m_ft_in1k": (72.636, 91.416),
            "resnet18.fb_swsl_ig1b_ft_in1k": (73.286, 91.754),
            "resnet50.fb_ssl_yfcc100m_ft_in1k": (79.252, 94.826),
            "resnet50.fb_swsl_ig1b_ft_in1k": (81.146, 95.98),
            "resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k": (80.316, 95.386),
            "resnext50_32x4d.fb_swsl_ig1b_ft_in1k": (82.162, 96.224),
            "resnext101_32x4d.fb_ssl_yfcc100m_ft_in1k": (80.936, 95.732),
            "resnext101_32x4d.fb_swsl_ig1b_ft_in1k": (83.268, 96.76),
            "resnext101_32x8d.fb_ssl_yfcc100m_ft_in1k": (81.62, 96.036),
            "resnext101_32x8d.fb_swsl_ig1b_ft_in1k": (84.276, 97.188),
        },
    ),
    # torchvision, IMAGENET1K_V1
    (
        Recipe(license="bsd-3-clause", origin_url=_TORCHVISION, interpolation="bilinear"),
        {
            "resnet18.tv_in1k": (69.752, 89.082),
            "resnet34.tv_in1k": (73.298, 91.422),
            "resnet50.tv_in1k": (76.156, 92.866),
            "resnet101.tv_in1k": (77.404, 93.552),
            "resnet152.tv_in1k": (78.33, 94.046),
            "resnext50_32x4d.tv_in1k": (77.632, 93.674),
            "resnext101_32x8d.tv_in1k": (79.308, 94.53),
            "resnext101_64x4d.tv_in1k": (82.978, 96.252),
            "wide_resnet50_2.tv_in1k": (78.486, 94.084),
            "wide_resnet101_2.tv_in1k": (78.862, 94.312),
        },
    ),
    # timm's procedure A3: 100 epochs at 160 pixels
    (
        Recipe(
            license="apache-2.0",
            origin_url=_TIMM,
            paper_ids=_STRIKES_BACK,
            train_size=160,
            test_size=224,
            crop_pct=0.95,
            test_crop_pct=0.95,
        ),
        {
            "ecaresnet50t.a3_in1k": (79.548, 94.71),
            "resnet18.a3_in1k": (68.25, 88.172),
            "resnet34.a3_in1k": (72.996, 91.116),
            "resnet50.a3_in1k": (78.052, 93.78),
            "resnet50d.a3_in1k": (78.742, 94.236),
            "resnet101.a3_in1k": (79.836, 94.608),
            "resnet152.a3_in1k": (80.548, 95.004),
            "resnext50_32x4d.a3_in1k": (79.258, 94.308),
            "seresnet50.a3_in1k": (77.036, 93.072),
        },
    ),
    # torchvision, IMAGENET1K_V2
    (
        Recipe(
            license="bsd-3-clause",
            origin_url=_TORCHVISION,
            train_size=176,
            test_size=224,
            test_crop_pct=0.965,
            interpolation="bilinear",
        ),
        {
            "resnet50.tv2_in1k": (80.846, 95.43),
            "resnet101.tv2_in1k": (81.906, 95.768),
            "resnet152.tv2_in1k": (82.294, 96.0),
            "resnext50_32x4d.tv2_in1k": (81.19, 95.344),
            "resnext101_32x8d.tv2_in1k": (82.832, 96.234),
            "wide_resnet50_2.tv2_in1k": (81.612, 95.766),
            "wide_resnet101_2.tv2_in1k": (82.514, 96.012),
        },
    ),
    # Alibaba MIIL, without a stated origin in timm
    (
        Recipe(license="apache-2.0", origin_url=None, test_size=288, test_crop_pct=0.95),
        {
            "ecaresnet50d.miil_in1k": (81.648, 95.884),
            "ecaresnet101d.miil_in1k": (83.006, 96.524),
        },
    ),
    # timm's procedure RA4: 3,600 epochs, pixels scaled to [-1, 1]
    (
        Recipe(
            license="apache-2.0",
            origin_url=_TIMM,
            paper_ids=_STRIKES_BACK,
            test_size=288,
            crop_pct=0.9,
            test_crop_pct=1.0,
            mean=_HALF,
            std=_HALF,
        ),
        {
            "resnet18d.ra4_e3600_r224_in1k": (76.012, 92.784),
            "resnet34.ra4_e3600_r224_in1k": (78.972, 94.454),
        },
    ),
    # timm with RandAugment at 256 pixels
    (
        Recipe(
            license="apache-2.0",
            origin_url=_TIMM,
            train_size=256,
            test_size=320,
            crop_pct=0.95,
            test_crop_pct=1.0,
        ),
        {
            "resnet101d.ra2_in1k": (83.02, 96.456),
            "resnet152d.ra2_in1k": (83.684, 96.75),
        },
    ),
    # timm with RandAugment at 256 pixels, tested on a smaller crop
    (
        Recipe(license="apache-2.0", origin_url=_TIMM, train_size=256, test_size=320, test_crop_pct=0.95),
        {
            "ecaresnet26t.ra2_in1k": (79.9, 95.07),
        },
    ),
    # the same, without a stated origin
    (
        Recipe(license="apache-2.0", origin_url=None, train_size=256, test_size=320, test_crop_pct=0.95),
        {
            "ecaresnet50t.ra2_in1k": (82.37, 96.12),
        },
    ),
    # timm's procedure A1h at 176 pixels
    (
        Recipe(
            license="apache-2.0",
            origin_url=_TIMM,
            paper_ids=_STRIKES_BACK,
            train_size=176,
            test_size=224,
            crop_pct=0.9,
            test_crop_pct=1.0,
        ),
        {
            "resnet50.a1h_in1k": (80.654, 95.312),
        },
    ),
    # AugMix, without a stated origin in timm
    (
        Recipe(license="apache-2.0", origin_url=None),
        {
            "resnet50.am_in1k": (79.004, 94.392),
        },
    ),
    # Bamboo: features without a classifier; no license is stated
    (
        Recipe(license=None, origin_url=_BAMBOO, paper_ids="arXiv:2203.07845", crop_pct=1.0, num_classes=0),
        {
            "resnet50.bamboo": None,
        },
    ),
    # the same, for ResNet-50-D
    (
        Recipe(
            license="apache-2.0",
            origin_url=_TIMM,
            paper_ids=_STRIKES_BACK,
            test_size=288,
            crop_pct=0.95,
            test_crop_pct=1.0,
            mean=_HALF,
            std=_HALF,
        ),
        {
            "resnet50d.ra4_e3600_r224_in1k": (81.84, 95.926),
        },
    ),
    # Facebook, pre-trained on 940 million hashtags; not for commercial use
    (
        Recipe(license="cc-by-nc-4.0", origin_url=_WEAKLY_SUPERVISED, interpolation="bilinear"),
        {
            "resnext101_32x8d.fb_wsl_ig1b_ft_in1k": (82.72, 96.624),
        },
    ),
)


def _table() -> dict[str, Weights]:
    rows: dict[str, Weights] = {}
    for recipe, accuracies in _PUBLISHED:
        shared = {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
        for name, accuracy in accuracies.items():
            top1, top5 = accuracy or (None, None)
            rows[name] = Weights(name=name, top1=top1, top5=top5, **shared)
    return rows


WEIGHTS: dict[str, Weights] = _table()
"""timm's name with tag -> its weights."""


def weights_of(architecture: str) -> list[Weights]:
    """Published weights of timm's network of that name, the default first.

    Free licenses come before others, and the more accurate before the less, so that the default never forbids
    commercial use where there is a choice.
    """
    rows = [weights for weights in WEIGHTS.values() if weights.architecture == architecture]
    return sorted(rows, key=lambda weights: (not weights.is_free, -(weights.top1 or 0.0)))
