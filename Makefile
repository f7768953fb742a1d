# Two commands for a fresh machine with Python 3.11 or later: `make finetune` and `make test`.
#   make finetune     fine-tune on the embedded data set; ends by saying where everything is
#   make test         style, types and the tests that take seconds
#   make test-slow    the tests that take minutes
#   make test-family  timm's own tests and the twins' gradients over the whole family, ten minutes
#   make test-gpu     what only a GPU shows, on a machine that has one
#   make format       rewrite the sources in the agreed style
# VENV=dir puts the virtual environment elsewhere, PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
OUTPUT_DIR ?= runs/digits-$(shell date +%Y%m%d-%H%M%S)
BIN := $(VENV)/bin
# A test process per core with one thread each: two that each use both cores wait for each other most of the time.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses logical --dist worksteal

.PHONY: finetune test test-slow test-family test-gpu browser format
.DELETE_ON_ERROR:

finetune: $(VENV)/.finetune-installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no --quiet \
		recipes/finetune.py --config recipes/configs/digits.yaml --output_dir $(OUTPUT_DIR)

test: $(VENV)/.test-installed browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(PYTEST) -m "not slow and not family and not gpu"

test-slow: $(VENV)/.test-installed browser
	$(PYTEST) -m slow

test-family: $(VENV)/.test-installed
	$(PYTEST) -m family

test-gpu: $(VENV)/.test-installed
	RESNET_HUB_TEST_GPU=1 $(BIN)/python -m pytest -m gpu --verbose

# The tests of pages need a browser and are skipped without one, so this tries, quietly, and never fails.
browser:
	@if ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		timeout 300 sh -c 'apt-get update && DEBIAN_FRONTEND=noninteractive \
			apt-get install --yes --no-install-recommends chromium chromium-driver' >/dev/null 2>&1 </dev/null \
			|| echo "Chromium could not be installed; the tests of pages will be skipped."; \
	fi

format: $(VENV)/.test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps are newer than pyproject.toml once its extras are installed, so the second time costs nothing.
$(VENV)/.finetune-installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[finetune]"
	touch $@

$(VENV)/.test-installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
