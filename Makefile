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
	$(BIN)/python -m pytest --numprocesses 2 --architecture-table=docs/architectures.md

# The whole matrix of variants and architectures.
soak: env
	$(BIN)/python -m pytest --numprocesses 2 -m soak

# Prints ratios and writes them into benchmarks/results.
bench: env
	$(BIN)/python -m benchmarks.baseline_layers
	$(BIN)/python -m benchmarks.riemannian_step
	$(BIN)/python -m benchmarks.data_preparation --rows 50000

lint: env
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/mypy

clean:
	rm -rf $(ENV)
