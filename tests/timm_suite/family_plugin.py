"""A pytest plugin that runs timm's own `tests/test_models.py` over models of the family.

Loaded with `-p family_plugin` in a process of its own. RESNET_HUB_SUITE_MODELS names the models (separated by
spaces), RESNET_HUB_SUITE_REPORT the file that gets the outcome of each test for each model.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from timm.models import _registry

import resnet_hub.models.my_resnet  # noqa: F401  registers the family before timm's file asks the registry

# timm runs its tests of intermediate features over modules of its own by name. The family's module is not
# among them, so its models are entered under the module whose contract they keep: more tests run, no fewer.
_registry._module_to_models["resnet"].update(_registry._module_to_models["my_resnet"])

_outcomes: dict[str, dict[str, str]] = defaultdict(dict)


def _model_of(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("model_name", "")) if callspec else ""


def pytest_collection_modifyitems(config, items):
    """Keep all tests of the models that were asked for, and of their pretrained tags."""
    wanted = set(os.environ["RESNET_HUB_SUITE_MODELS"].split())
    is_wanted = [_model_of(item).partition(".")[0] in wanted for item in items]
    config.hook.pytest_deselected(
        items=[item for item, keep in zip(items, is_wanted, strict=True) if not keep]
    )
    items[:] = [item for item, keep in zip(items, is_wanted, strict=True) if keep]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Note the outcome of each test; one that fails or is skipped in set-up counts as well."""
    report = yield
    if report.when == "call" or not report.passed:
        _outcomes[_model_of(item)][item.originalname] = report.outcome
    return report


def pytest_sessionfinish():
    """Write the outcomes where the test that started this process reads them."""
    Path(os.environ["RESNET_HUB_SUITE_REPORT"]).write_text(json.dumps(_outcomes), encoding="utf-8")
