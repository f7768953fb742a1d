"""The notebook runs from its first to its last cell, in a fresh process, and holds nothing of a machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server.fixtures import child_environment
from tests.hub_server.server import HubServer
from tests.test_rules import ROOT

pytest_plugins = ["tests.hub_server.fixtures"]

NOTEBOOK = ROOT / "recipes/finetune.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]

# Runs each cell as IPython does: what its last line gives is shown, as HTML if it can be.
KERNEL = """
import ast, json, sys
space = {"__name__": "__main__"}
for cell in json.load(sys.stdin):
    tree = ast.parse(cell)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    if last is not None:
        shown = eval(compile(last, "cell", "eval"), space)
        print(shown._repr_html_() if hasattr(shown, "_repr_html_") else shown)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs_from_data_to_the_hub(hub: HubServer, tmp_path: Path):
    cells = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
    done = subprocess.run(
        [sys.executable, "-c", KERNEL],
        input=json.dumps(cells),
        cwd=tmp_path,
        env=child_environment(hub.url, home=tmp_path / "home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "% of 58 test images" in done.stdout
    assert done.stdout.count("<svg") >= 4  # curves of the two runs that are shown
    assert "'kappa': " in done.stdout
    assert (tmp_path / "runs/digits/report.html").is_file()
    assert (tmp_path / "exported").is_dir()
    repository = hub.storage.repos["models", "alice/digits"]
    assert "model.safetensors" in repository.commits[repository.branches["main"]].files


def test_the_notebook_holds_no_output_of_a_machine():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
