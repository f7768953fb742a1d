"""The structure of the package: imports point down, importing is light, the wheel is complete."""

import ast
import subprocess
import sys
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "resnet_hub"

# The rooms of the house from the ground up: each may import those before it, and itself.
ROOMS = (
    "errors terminal csv_cells files plain_yaml cache_store cores shared_memory results timm_hook",
    "images downloads models cards hub prediction formats",
    "finetuning.config finetuning.machine finetuning.network finetuning.data finetuning.batches",
    "finetuning.engine finetuning.run_folder finetuning.report finetuning.training",
    "finetuning.prepare finetuning.scoring finetuning.finish finetuning.run finetuning.from_python",
    "finetuning.__main__ finetuning",
    "demo cli __main__",
)
ORDER = " ".join(ROOMS).split()
NAMES_ONLY = {"resnet_hub", "resnet_hub.finetuning"}  # lazy: importing them imports none of what they name


def room_of(module: str) -> str:
    """`finetuning.data` for `resnet_hub.finetuning.data.labels`; a part of the package for anything else."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2] if parts[0] == "finetuning" else parts[:1])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_modules(path: Path) -> set[str]:
    """Modules of ours that a file imports, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module in NAMES_ONLY:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.startswith("resnet_hub.") and room_of(name) in ORDER}


def test_every_part_of_the_package_has_its_place_in_the_order_of_rooms():
    rooms = {room_of(module_of(path)) for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"}
    assert rooms <= set(ORDER)


def test_imports_between_rooms_point_down():
    upward = [
        f"{module} imports {target}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if (module := module_of(path)) not in NAMES_ONLY
        for target in sorted(imported_modules(path))
        if ORDER.index(room_of(target)) > ORDER.index(room_of(module))
    ]
    assert upward == []


def test_no_two_modules_need_each_other():
    imports = {module_of(path): imported_modules(path) for path in PACKAGE.rglob("*.py")}
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_no_folder_holds_more_than_fourteen_modules():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    crowded = {
        str(folder.relative_to(PACKAGE)): len(modules)
        for folder in folders
        if len(modules := list(folder.glob("*.py"))) > 14
    }
    assert crowded == {}


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
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {str(path.relative_to(ROOT)) for path in files} <= set(names)


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
