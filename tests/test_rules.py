"""The structure that DESIGN promises: imports point down, importing is light, the wheel is complete."""

import ast
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "resnet_hub"

# Each module may import those of the levels before its own, and its neighbours in the same level.
LEVELS = (
    ("errors", "results", "launcher", "when_timm_is_imported"),
    ("variant", "blocks", "architecture"),
    ("strict_loading", "timm_build", "pretrained", "own_weights", "my_resnet", "origin", "optimize"),
    ("images", "image_files", "preprocessing"),
    ("model_card",),
    ("hub",),
    ("predict", "conformance", "formats"),
    ("registration",),
    ("prediction",),
    ("__init__",),
    ("demo",),
    ("finetuning",),
    ("verbs",),
    ("cli",),
    ("reference",),
)


def imported_modules(path: Path) -> set[str]:
    """Modules of ours that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "resnet_hub"}


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py")}


def level_of(levels: tuple[tuple[str, ...], ...], name: str) -> int | None:
    return next((number for number, names in enumerate(levels) if name in names), None)


def edges(folder: Path, prefix: str, levels: tuple[tuple[str, ...], ...]) -> list[str]:
    """Every import that points up, in words; modules that have no level yet are named too."""
    wrong = []
    for path in sorted(folder.rglob("*.py")):
        source = path.relative_to(folder).parts[0].removesuffix(".py")
        level = level_of(levels, source)
        if level is None:
            wrong.append(f"{source} has no level in this test")
            continue
        for module in imported_modules(path):
            if module.startswith(f"{prefix}.") or module == prefix:
                target = module.removeprefix(prefix).strip(".").split(".")[0] or "__init__"
                target_level = level_of(levels, target)
                if target_level is not None and target_level > level:
                    wrong.append(f"{source} imports {target}, which is above it")
    return wrong


def test_imports_point_down_in_the_package():
    assert edges(PACKAGE, "resnet_hub", LEVELS) == []


def test_imports_in_finetuning_point_one_way_and_the_story_is_on_top():
    folder = PACKAGE / "finetuning"
    imports = {
        path.stem: {name.split(".")[2] for name in imported_modules(path) if name.count(".") >= 2}
        & stems(folder)
        for path in folder.glob("*.py")
    }
    order = list(TopologicalSorter(imports).static_order())  # raises CycleError where two need each other
    assert {name for name, needs in imports.items() if "run" in needs} <= {"__init__", "__main__"}
    assert order.index("run") > order.index("training") > order.index("loop") > order.index("config")


def test_the_package_imports_neither_recipes_nor_tests():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"recipes", "tests"}, path


@pytest.mark.parametrize(
    "package",
    ["torch", "timm", "huggingface_hub", "accelerate", "datasets", "sklearn", "matplotlib", "tyro"],
)
def test_importing_resnet_hub_leaves_heavy_packages_alone(package: str, loaded_by_import: set[str]):
    assert package not in loaded_by_import


@pytest.fixture(scope="module")
def loaded_by_import() -> set[str]:
    code = "import sys, resnet_hub; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"resnet_hub"}
    assert "resnet_hub/py.typed" in names
    for folder in ("templates", "weights"):
        files = {path.name for path in (PACKAGE / folder).iterdir() if path.is_file()}
        assert files <= {Path(name).name for name in names if f"/{folder}/" in name}


def test_no_file_of_the_package_is_longer_than_four_hundred_lines():
    long = {
        path.name: count
        for path in PACKAGE.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_nothing_foreign_is_unpickled_or_evaluated():
    forbidden = ("pickle.load", "weights_only=False", "yaml.load(", "shell=True", "extractall")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for folder in (PACKAGE, ROOT / "recipes")
        for path in folder.rglob("*.py")
        for word in forbidden
        if word in path.read_text()
    ]
    assert found == []
