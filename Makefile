# `make quickstart` and `make test` each work alone in a fresh clone; they need Python 3.11 or later and, to install, a
# package index. Nothing that they run afterwards touches the network.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Tests share the cores through xdist; a thread pool in each worker would only make them wait for each other.
QUIET  := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false
TESTS  := $(QUIET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help quickstart test fast lint format reference clean

help:
	@echo "make quickstart   install, then run the main job on text that every Python carries"
	@echo "make test         install, then run every test: the fast ones, then the slow ones, on two cores"
	@echo "make fast         the fast tests alone"
	@echo "make lint         style, types, import layers"
	@echo "make format       rewrite the code in the project's style"
	@echo "make reference    write examples/reference/commands.md from the commands"
	@echo "make clean        remove $(VENV) and what tests leave behind"

quickstart: $(VENV)/.installed
	$(QUIET) $(BIN)/curate quickstart

test: fast
	$(TESTS) -n 2 -m slow

fast: $(VENV)/.installed-dev
	$(TESTS) -n 2 -m "not slow"

# pyright's wheel carries pyright itself, and its extra `nodejs` the node that runs it: no npm, no download.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

reference: $(VENV)/.installed-dev
	$(BIN)/python examples/reference/commands.py > examples/reference/commands.md.new
	mv examples/reference/commands.md.new examples/reference/commands.md

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# Installed again only when what is asked for has changed. A stamp is written last, so a failed install is tried again.
$(VENV)/.installed: pyproject.toml .ci/constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml .ci/constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c .ci/constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) here; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V 2>&1); Python 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
