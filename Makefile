# Every target does all its set-up on a machine with nothing but Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A process of tests for each core up to four; a file stays in one, since its tests share a small run.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test lint check bench

quickstart: $(INSTALLED)
	$(BIN)/coinbench run --methods viscoin,flint,flaem,random --dataset birds --jobs 2 --out runs/quickstart

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright

check: lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

# Without the shape checks of the tests, which would be timed too.
bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks --benchmark-only --override-ini addopts=--import-mode=importlib

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("coinbench needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable '.[track]' --group dev
	touch $@
