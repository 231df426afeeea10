# Everything sets itself up in .venv; set PYTHON to choose the interpreter it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# One thread per worker: the workers share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# What `make stable` runs (the fast part: neither commands, nor examples, nor processes), and how often; what `make
# compat` is given, such as COMPAT="--only oldest", and `make mutants`, such as MUTANTS="measures.metrics objectives.rpt".
TESTS ?= $(addprefix tests/,core data evaluation items modes objectives test_checks.py test_files.py)
ORDERS ?= 20
COMPAT ?=
MUTANTS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup dev demo test lint types fast slow coverage stable compat mutants bench paper clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/.installed ## install latentloop in .venv

dev: $(VENV)/.installed-dev ## the same, with what tests and checks need

demo: setup ## both training stages on synthetic data, then recommendations
	$(BIN)/latentloop demo

test: lint types ## lint, types, tests (editable and wheel install)
	$(PYTEST) -n 2 --junit-xml build/pytest.xml

lint: dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy reads the package as it installs: only there is backbones/ latentloop.backbones.
types: dev ## mypy --strict on the built wheel
	rm -rf build
	$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . >/dev/null
	$(PIP) install --quiet --no-deps --no-index --target build/site build/wheel/*.whl
	cd build && MYPYPATH=site ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p latentloop

fast: dev ## tests only, up to the first failure
	$(PYTEST) -n 2 -x

slow: dev ## the tests that take minutes
	$(PYTEST) -m slow

# Tests that run processes of their own are measured there too.
coverage: dev ## lines and branches that the tests run; fails below 95 %
	rm -rf build/coverage && mkdir -p build/coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -n 2
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

# Every worker must shuffle alike, so the order has a number, which also brings it back.
stable: dev ## the fast tests of modules twenty times, each time in another order
	for order in $$(seq 1 $(ORDERS)); do \
		echo "order $$order"; HYPOTHESIS_PROFILE=few $(PYTEST) -n 2 -q -x --random-order-seed=$$order $(TESTS) || exit 1; \
	done

compat: dev ## the tests on every Python here, on the oldest packages claimed and on the newest
	$(BIN)/python -m tests.compat $(COMPAT)

mutants: dev ## how many changes of the code its tests notice, twenty minutes of one core
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutants $(MUTANTS)

bench: dev ## speed and memory against plain twins, some five minutes
	$(BIN)/python -m benchmarks.speed

paper: dev ## tables and figures of the paper's experiments, from the cells that are stored
	$(BIN)/python -m benchmarks.paper.report

clean: ## remove everything that make made
	rm -rf $(VENV) .compat build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "latentloop needs Python 3.10 or newer; choose one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	$(PIP) install --constraint constraints.txt pip setuptools
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.installed
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@
