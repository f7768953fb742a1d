"""What the package imports is declared, and a person who left out an extra is told which one."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import timm
from packaging.requirements import Requirement
from PIL import Image

import resnet_hub
from resnet_hub.errors import PACKAGES_OF_EXTRAS
from tests.test_rules import PACKAGE, ROOT, module_of, room_of

NAMES = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "pytorch_grad_cam": "grad-cam"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_EXTRAS = {name for names in PACKAGES_OF_EXTRAS.values() for name in names}


def declared(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {Requirement(line).name for line in lines}


def foreign_imports(tree: ast.AST) -> set[str]:
    """Top-level names of the third-party packages that a file imports, in functions as well."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"resnet_hub"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_of)
def test_every_package_that_is_imported_is_declared(path: Path):
    needs_finetune = room_of(f"{module_of(path)}.").startswith("finetuning")
    allowed = declared("finetune") if needs_finetune else declared()
    for name in foreign_imports(ast.parse(path.read_text())):
        of_extra = name in OF_EXTRAS or name == "simplejpeg"  # the latter is done without, slower
        assert of_extra or NAMES.get(name, name) in allowed, name


def test_every_package_is_installed_by_the_extra_that_is_named_for_it():
    for extra, names in PACKAGES_OF_EXTRAS.items():
        assert {NAMES.get(name, name) for name in names} <= declared(extra), extra


VERBS = {
    "finetune": (["finetune", "--dataset_name", "digits"], "finetune"),
    "validate": (["validate", "model", "--dataset_name", "digits"], "finetune"),
    "compare": (["compare", "model"], "finetune"),
    "predict": (["predict", "model", "photo.png", "--gradcam", "seen"], "predict"),
    "export": (["export", "model", "--output_dir", "exported"], "export"),
    "demo": (["demo", "model"], "demo"),
    "labels of files": (["predict", "model", "photo.png", "--output", "labels.csv"], None),
    "an archive of torch": (["export", "model", "--output_dir", "archive", "--formats", "pt2"], None),
}

# As if none of the extras were installed. All verbs in one process: importing torch takes the longest.
WITHOUT_EXTRAS = """
import contextlib, io, json, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in PACKAGES else super().find_spec(name, path, target)

PACKAGES, verbs = json.load(sys.stdin)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
from resnet_hub.cli.main import main

answers = {}
for verb, (words, _) in verbs.items():
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    answers[verb] = code, said.getvalue()
try:
    from resnet_hub.finetuning import finetune
except ValueError as error:
    answers["from Python"] = type(error).__name__, str(error)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int | str, str]]:
    """What each verb says without the extras."""
    place = tmp_path_factory.mktemp("place")
    model = timm.create_model("my_resnet20", num_classes=2)
    resnet_hub.save_folder(model, place / "model", class_names=["no", "yes"])
    Image.new("RGB", (40, 40)).save(place / "photo.png")
    given = json.dumps([sorted(OF_EXTRAS), VERBS])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_without_its_extra_names_the_package_and_what_to_type(verb: str, answers):
    extra = VERBS[verb][1]
    code, said = answers[verb]
    assert code == (0 if extra is None else 2), said
    if extra is not None:
        assert any(f"needs the package {name}," in said for name in PACKAGES_OF_EXTRAS[extra]), said
        assert said.endswith(f'Run: pip install "resnet_hub[{extra}]"\n')


def test_fine_tuning_from_python_without_its_extra_names_it_too(answers):
    kind, said = answers["from Python"]
    assert kind == "UserError"
    assert said.endswith('Run: pip install "resnet_hub[finetune]"')
