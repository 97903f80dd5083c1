# Everything runs in .venv, which the first target that needs it makes: pinned by constraints.txt.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
# pip is asked from outside and installed on purpose: a Debian without python3-venv has no ensurepip.
PIP := $(PYTHON) -m pip --disable-pip-version-check --python $(BIN)/python install --quiet --constraint constraints.txt

.PHONY: env quickstart test soak bench lint clean

env: $(ENV)/.complete

$(ENV)/.complete: constraints.txt pyproject.toml
	$(PYTHON) -m venv --without-pip $(ENV)
	$(PIP) pip
	$(PIP) --editable '.[dev]'
	touch $@

# Options after the recipe, such as ARGS="--data.train_rows 4", shorten or change it.
quickstart: env
	$(BIN)/hycam data fetch
	$(BIN)/hycam study recipes/quickstart.yaml $(ARGS)
	$(BIN)/hycam report recipes/quickstart.yaml $(ARGS)

test: env
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --architecture-table=docs/architectures.md

# The whole matrix of variants and architectures.
soak: env
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m soak

# Prints ratios and writes them into benchmarks/results. ARGS="--seconds 2 --rounds 2 --dry-run" shows whether it all runs.
BENCHMARKS := modulation_memory modulation_layer modulation_scaling training_step decoding baseline_layers riemannian_step

bench: env
	set -e; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS); done
	$(BIN)/python -m benchmarks.data_preparation --rows 50000
	$(BIN)/python -m benchmarks.bounds

lint: env
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/mypy

clean:
	rm -rf $(ENV)
