# Every target sets up what it needs from a fresh clone; the README spells each out for those without make.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test lint bench clean

help:
	@echo "make demo   install, then run both sample plans (synthetic data, about a minute)"
	@echo "make test   install, then lint, type-check and test"
	@echo "make bench  install, then print the benchmarks' ratios"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

install: $(VENV)/installed

demo: install
	$(BIN)/hetfed medical run
	$(BIN)/hetfed traffic run

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --cov --cov-report=term

bench: install
	$(BIN)/python tests/benchmarks/round_overhead.py
	$(BIN)/python tests/benchmarks/algorithm_cost.py
	$(BIN)/python tests/benchmarks/scale.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .coverage
