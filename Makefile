# make demo   sets up .venv, trains with and without action-unit cues on drawn faces, writes runs/demo/report.html
# make test   sets up .venv and runs the tests
# make docs   builds the documentation in docs/_build/html; warnings are errors
# make lint   checks style and types
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo
# Options that make the demo shorter, for example: make demo DEMO_FACES="--train=140" DEMO_TRAIN="--config.epochs=1"
DEMO_FACES ?=
DEMO_TRAIN ?=
# Test processes; a file stays in one, so that its fixtures are made once.
WORKERS ?= 2

# Caches stay inside the repository.
CACHE := $(CURDIR)/.cache
export MPLCONFIGDIR := $(CACHE)/matplotlib
export IPYTHONDIR := $(CACHE)/ipython
export JUPYTER_CONFIG_DIR := $(CACHE)/jupyter
export JUPYTER_DATA_DIR := $(CACHE)/jupyter
export JUPYTER_RUNTIME_DIR := $(CACHE)/jupyter/runtime
export JAX_COMPILATION_CACHE_DIR := $(CACHE)/jax
export XDG_CACHE_HOME := $(CACHE)
export RUFF_CACHE_DIR := $(CACHE)/ruff
export PYTHONDONTWRITEBYTECODE := 1
export TMPDIR := $(CACHE)/tmp
# pip alone keeps its usual cache, so that a second checkout installs fast.
PIP := env -u XDG_CACHE_HOME "$(BIN)/python" -m pip --disable-pip-version-check --quiet

EXTRAS := report$(shell nvidia-smi -L >/dev/null 2>&1 && echo ,cuda)

.PHONY: help demo test docs lint clean

help:
	@sed -n 's/^# make/make/p' Makefile

# One stamp per set of extras: setting up again is a no-op until pyproject.toml changes.
.SECONDARY:
$(VENV)/.with-%: pyproject.toml
	@mkdir -p "$(CACHE)/tmp"
	@test -x "$(BIN)/python" || { echo "Setting up $(VENV)"; "$(PYTHON)" -m venv "$(VENV)"; }
	@echo "Installing aujax[$*] into $(VENV)"
	@$(PIP) install --editable ".[$*]"
	@touch "$@"

demo: $(VENV)/.with-$(EXTRAS)
	@mkdir -p "$(TMPDIR)"
	@"$(BIN)/aujax" prepare synthetic --out "$(DEMO)/faces" $(DEMO_FACES)
	@for weight in 0 4; do \
	  run="$(DEMO)/$$([ $$weight = 0 ] && echo without_au || echo with_au)"; \
	  echo "Training with au_weight $$weight in $$run"; \
	  "$(BIN)/aujax" train --config=synthetic --config.data.dir="$(DEMO)/faces" \
	    --config.au_weight=$$weight --workdir="$$run" $(DEMO_TRAIN); \
	  "$(BIN)/aujax" eval --workdir="$$run" --split=validation,test; \
	done
	@"$(BIN)/aujax" report page "$(DEMO)/without_au" "$(DEMO)/with_au" --split test --out "$(DEMO)"

test: $(VENV)/.with-test
	@mkdir -p "$(TMPDIR)"
	@"$(BIN)/python" -m pytest -q -p no:cacheprovider -n $(WORKERS) --dist loadfile $(TEST)

# The notebook in the documentation opens the demo's run; where there is none, a shorter one is trained.
DOCS_RUN := $(if $(wildcard $(DEMO)/with_au/config.json),$(DEMO)/with_au,docs/_build/run)

docs: $(VENV)/.with-docs
	@mkdir -p "$(TMPDIR)"
	@test -f "$(DOCS_RUN)/config.json" || { \
	  "$(BIN)/aujax" prepare synthetic --out docs/_build/faces --train 700 --validation 70 --test 70 >/dev/null; \
	  "$(BIN)/aujax" train --config=synthetic --config.data.dir=docs/_build/faces \
	    --config.epochs=8 --config.validate_every=4 --workdir="$(DOCS_RUN)"; }
	@rm -rf docs/_generated
	@AUJAX_RUN="$(abspath $(DOCS_RUN))" "$(BIN)/python" -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

lint: $(VENV)/.with-dev
	@"$(BIN)/ruff" check . && "$(BIN)/ruff" format --check .
	@"$(BIN)/pyright"

clean:
	rm -rf "$(VENV)" "$(CACHE)" "$(DEMO)" docs/_build docs/_generated
