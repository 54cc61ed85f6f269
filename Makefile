# `make demo` and `make test` do all set-up themselves, inside .venv/ of this clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test quick lint benchmark clean
.DEFAULT_GOAL := help

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

# The stamp is newer than what it was made from, so set-up happens once and again only when versions change.
$(VENV)/stamp: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(f"paradia needs Python 3.11 or later, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/stamp  ## simulate a small head, map it, compare with the truth, write a report to demo/
	$(BIN)/paradia demo demo

test: lint  ## everything that must hold
	$(BIN)/python -m pytest -n 2 --dist worksteal

quick: $(VENV)/stamp  ## the tests that take no time
	$(BIN)/python -m pytest -n 2 -m 'not slow'

lint: $(VENV)/stamp  ## style, types, layers, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/typos

benchmark: $(VENV)/stamp  ## measure speed and accuracy on this machine, into benchmarks/results/
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:  ## remove what make made
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
