# Everything runs in .venv, which the first target that needs it makes: pinned by constraints.txt.
PYTHON ?= python3
ENV := .venv
BIN := $(ENV)/bin
# pip is asked from outside and installed on purpose: a Debian without python3-venv has no ensurepip.
PIP := $(PYTHON) -m pip --disable-pip-version-check --python $(BIN)/python install --quiet --constraint constraints.txt

.PHONY: env quickstart test newest oldest wheel soak bench lint clean

env: $(ENV)/.complete

# What a user of the studies needs; development brings Ray, DeepSpeed, fuzzers and more on top.
$(ENV)/.study: constraints.txt pyproject.toml
	$(PYTHON) -m venv --without-pip $(ENV)
	$(PIP) pip
	$(PIP) --editable '.[study]'
	touch $@

$(ENV)/.complete: $(ENV)/.study
	$(PIP) --editable '.[dev]'
	touch $@

# Options after the recipe, such as ARGS="--data.train_rows 4", shorten or change it.
quickstart: $(ENV)/.study
	$(BIN)/hycam data fetch
	$(BIN)/hycam study recipes/quickstart.yaml $(ARGS)
	$(BIN)/hycam report recipes/quickstart.yaml $(ARGS)

test: env
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --architecture-table=docs/architectures.md

# The other ends of what pyproject.toml allows, each in fresh environments that constraints.txt has no part in. PyTorch
# alone is the release named there: other wheels of it bring gigabytes of CUDA. Where a test fails, the packages that
# differ from constraints.txt are listed with both versions.
TORCH := $(shell grep '^torch==' constraints.txt)
FAMILIES := llama or mistral or qwen2 and not qwen2_moe
# What older releases of PEFT leave to the library.
PROMISES := tests/test_library.py tests/tuners/test_linear.py tests/tuners/hycam/test_frozen_router.py
TRAINERS := tests/test_examples.py tests/tuners/hycam/test_trainers.py
fresh = rm -rf $(1) && $(PYTHON) -m venv --without-pip $(1) && $(call into,$(1)) --no-deps '$(TORCH)'
into = $(PYTHON) -m pip --disable-pip-version-check --python $(1)/bin/python install --quiet
tested = $(1)/bin/python -m pytest --numprocesses 2 --dist worksteal $(2) || { $(1)/bin/python .ci/differing.py; exit 1; }

newest:
	$(call fresh,.venv-newest)
	$(call into,.venv-newest) --editable '.[dev]'
	$(call tested,.venv-newest,tests/contract tests/cli/test_main.py $(TRAINERS) \
		-k "$(FAMILIES) or test_main or test_examples or test_trainers")

# The library has lower bounds of its own. The trainers of TRL need more than the application does.
oldest:
	$(call fresh,.venv-oldest)
	$(PYTHON) .ci/lower_bounds.py dependencies test > .venv-oldest/bounds.txt
	$(call into,.venv-oldest) --constraint .venv-oldest/bounds.txt --editable '.[test]'
	$(call tested,.venv-oldest,tests/contract $(PROMISES) -k "$(FAMILIES) or test_library or test_linear or frozen_router")
	$(call fresh,.venv-oldest-train)
	$(PYTHON) .ci/lower_bounds.py dependencies train study test > .venv-oldest-train/bounds.txt
	$(call into,.venv-oldest-train) --constraint .venv-oldest-train/bounds.txt --editable '.[study,test]'
	$(call tested,.venv-oldest-train,tests/cli/test_main.py tests/training/test_train.py -k "test_main or resumed_run and not packed")
	$(PYTHON) .ci/lower_bounds.py dependencies train study test trl > .venv-oldest-train/bounds.txt
	$(call into,.venv-oldest-train) --constraint .venv-oldest-train/bounds.txt --editable '.[study,test,trl]'
	$(call tested,.venv-oldest-train,$(TRAINERS))

# What is published: the library alone from the wheel of the sdist, in a fresh environment, and then with the command line.
wheel: env
	rm -rf dist && $(BIN)/python -m build
	$(call fresh,.venv-wheel)
	$(call into,.venv-wheel) dist/*.whl
	cd /tmp && $(CURDIR)/.venv-wheel/bin/python -c 'import hycam; print(hycam.HyCAMConfig())'
	$(call into,.venv-wheel) "$$(echo dist/*.whl)[train]"
	cd /tmp && $(CURDIR)/.venv-wheel/bin/hycam recipes list && $(CURDIR)/.venv-wheel/bin/hycam methods

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
	rm -rf $(ENV) dist build .venv-wheel .venv-newest .venv-oldest .venv-oldest-train
