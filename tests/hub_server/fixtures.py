"""Fixtures: a running Hub with an empty cache, for this process and for the processes that it starts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import close_session

from resnet_hub.hub import save_folder
from tests.hub_server.server import HubServer

REPO = "alice/digits"
NAMES = [str(number) for number in range(10)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that the clients of this process ask, as alice; its cache is empty."""
    with HubServer(tmp_path / "hub") as server:
        point_to(monkeypatch, server.url, home=tmp_path / "home")
        monkeypatch.setenv("HF_TOKEN", next(iter(server.tokens)))
        yield server
    close_session()


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody listens where the Hub should be."""
    point_to(monkeypatch, "http://127.0.0.1:9", home=tmp_path / "home")
    yield
    close_session()


@pytest.fixture
def run_python(hub: HubServer, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code in a fresh process that sees the Hub of the test and has a cache of its own."""

    def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {**child_environment(hub.url, home=tmp_path / "child_home"), **environment}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """A small model and its folder, which no test changes."""
    torch.manual_seed(0)
    model = timm.create_model("my_resnet20", num_classes=len(NAMES)).eval()
    return model, save_folder(model, tmp_path_factory.mktemp("run") / "export", class_names=NAMES)


@pytest.fixture
def folder(exported: tuple[torch.nn.Module, Path], tmp_path: Path) -> Path:
    """A copy of the small model's folder, to be changed."""
    return Path(shutil.copytree(exported[1], tmp_path / "export"))


@pytest.fixture
def published(hub: HubServer, exported: tuple[torch.nn.Module, Path]) -> torch.nn.Module:
    """The small model, which is on the Hub as alice/digits."""
    model, folder = exported
    publish(hub, folder)
    return model


def point_to(monkeypatch: pytest.MonkeyPatch, url: str, *, home: Path) -> None:
    """Set huggingface_hub's constants, which it read from the environment when it was imported."""
    close_session()
    settings = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    for name, value in child_environment(url, home=home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def child_environment(url: str, *, home: Path) -> dict[str, str]:
    """Environment of a process that asks this Hub, with a cache below `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    token = {"HF_TOKEN": os.environ["HF_TOKEN"]} if "HF_TOKEN" in os.environ else {}
    return {
        **inherited,
        **token,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }


def publish(hub: HubServer, folder: Path, repo_id: str = REPO) -> str:
    """Put a folder onto the Hub behind the API's back, and give the commit."""
    repo = hub.storage.repos.get(("models", repo_id)) or hub.storage.create("models", repo_id)
    files = {
        path.relative_to(folder).as_posix(): hub.storage.put(
            path.read_bytes(), large=path.suffix == ".safetensors"
        )
        for path in folder.rglob("*")
        if path.is_file()
    }
    return hub.storage.commit(repo, "main", "publish", add=files)


def assert_same_weights(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Fail unless the two models have the same tensors under the same names, bit for bit."""
    expected, found = first.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def weights_of(model_cache: str) -> list[Path]:
    """The files in a cache of the Hub's client that are large enough to be weights."""
    paths = [path for path in Path(model_cache).rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in paths if path.stat().st_size > 500_000]


def files_on(hub: HubServer, branch: str = "main") -> dict[str, bytes]:
    """Name -> content of every file of alice/digits."""
    repo = hub.storage.repos["models", REPO]
    commit = repo.commits[repo.branches[branch]]
    return {name: hub.storage.content(file) for name, file in commit.files.items()}
