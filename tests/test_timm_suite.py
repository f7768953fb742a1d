"""The family passes the tests that timm has for its own models; they come with timm's source distribution."""

import json
import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
from filelock import FileLock
from safetensors.torch import save_file

from resnet_hub.models.my_resnet import VARIANTS, published_weights, timm_twin
from resnet_hub.models.published_weights import Weights, weights_of

QUICK = ("my_resnet18", "my_resnet20")
PER_MODEL = {
    "test_model_forward",
    "test_model_backward",
    "test_model_forward_torchscript",
    "test_model_forward_features",
    "test_model_forward_intermediates_features",  # these three run only over modules that timm names;
    "test_model_forward_intermediates",  # the plugin enters the family among them
    "test_prune_intermediate_layers_contract",
    "test_model_forward_fx",
    "test_model_backward_fx",
    "test_model_forward_fx_torchscript",
}
PER_TAG = {"test_model_load_pretrained", "test_model_features_pretrained"}


@pytest.fixture(scope="session")
def suite(pytestconfig, tmp_path_factory) -> Path:
    """A folder with timm's test_models.py, fetched once per version of timm by pip."""
    cache = pytestconfig.cache.mkdir(f"timm-{version('timm')}")
    with FileLock(cache / "lock"):  # several processes may run tests
        if not list(cache.glob("timm-*.tar.gz")):
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", "timm"]
            command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(cache)]
            subprocess.run([*command, f"timm=={version('timm')}"], check=True, timeout=240)
    folder = tmp_path_factory.mktemp("timm_suite")  # alone: beside timm's sources it would test those
    (sdist,) = cache.glob("timm-*.tar.gz")
    with tarfile.open(sdist) as archive:
        for member in ("tests/test_models.py", "pyproject.toml"):
            source = archive.extractfile(f"timm-{version('timm')}/{member}")
            assert source is not None
            (folder / Path(member).name).write_bytes(source.read())
    return folder


def put_into_hub_cache(cache: Path, published: list[Weights]) -> None:
    """Fill the Hub client's cache with random weights, made by timm's own model, for each published tag."""
    for weights in published:
        stem = cache / f"{weights.architecture}-{weights.num_classes}.safetensors"
        if not stem.exists():
            twin = timm.create_model(weights.architecture, num_classes=weights.num_classes)
            save_file(twin.state_dict(), stem)
        repository = cache / f"models--timm--{weights.name}"
        snapshot = repository / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(stem)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)


def run_suite(suite: Path, cache: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """Outcome of each of timm's tests for each of the models and their tags."""
    for name in names:
        put_into_hub_cache(cache, weights_of(timm_twin(name) or ""))
    report = cache / "report.json"
    search = [str(Path(__file__).parent / "timm_suite"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"} | {
        "PYTHONPATH": os.pathsep.join(search),
        "RESNET_HUB_SUITE_MODELS": " ".join(names),
        "RESNET_HUB_SUITE_REPORT": str(report),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-p", "family_plugin", "-q", "test_models.py"]
    result = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, check=False)
    assert report.exists(), result.stdout + result.stderr
    outcomes = json.loads(report.read_text())
    bad = {name: tests for name, tests in outcomes.items() if set(tests.values()) != {"passed"}}
    assert not bad, f"{bad}\n{result.stdout[-6000:]}"
    assert result.returncode == 0, result.stdout[-6000:]
    return outcomes


def check_that_all_ran(outcomes: dict[str, dict[str, str]], names: list[str]) -> None:
    for name in names:
        published = published_weights(name)
        assert outcomes[name].keys() >= PER_MODEL
        for tag in [f"my_{weights.name}" for weights in published] or [name]:
            assert "test_model_default_cfgs" in outcomes[tag]
        for weights in published:
            assert outcomes[f"my_{weights.name}"].keys() >= PER_TAG


def test_small_members_of_the_family_pass_every_test_of_timm(suite, tmp_path):
    names = list(QUICK)
    check_that_all_ran(run_suite(suite, tmp_path, names), names)


OTHERS = [name for name in VARIANTS if name not in QUICK]


@pytest.mark.family
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
def test_all_other_members_of_the_family_pass_every_test_of_timm(suite, tmp_path, part):
    names = OTHERS[part::4]  # in parts, which several processes share
    check_that_all_ran(run_suite(suite, tmp_path, names), names)
