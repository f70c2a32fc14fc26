# Needs git, make and Python 3.11 or later; everything else goes into .venv.
# As root on Debian the targets install the few system packages that are missing.

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
JUNIT := build/junit.xml
# Twice the cores: tests wait for processes, locks and leases about a third of their time.
WORKERS ?= 4
SEEDS ?= 20
# Packages of the programs that tests call; tests/meta/test_programs.py says which these are.
PROGRAMS := chromium curl e2fsprogs mount nodejs strace
# What tests run in node and in the browser, by its lock file.
NODE := tests/node
NODE_INSTALLED := $(NODE)/node_modules/.package-lock.json

# Tests start some thousand processes: their modules are compiled once.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long check lint quick bench reference clean

help:  ## print this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '  make %-10s %s\n' "$$name" "$$text"; done

setup: $(INSTALLED)  ## make .venv with the locked packages and Tidemill itself

$(INSTALLED): requirements/test.lock pyproject.toml tools/make_venv.sh tools/need_packages.sh \
		kernels/setup.py kernels/pyproject.toml $(wildcard kernels/src/*.[ch]) kernels/src/tidemill_kernels/__init__.py
	bash tools/make_venv.sh $(VENV)
	@touch $@

$(NODE_INSTALLED): $(NODE)/package-lock.json tools/need_packages.sh
	bash tools/need_packages.sh npm
	npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund
	@touch $@

test: export TIDEMILL_CRASH_SEEDS = $(SEEDS)
test-long: export TIDEMILL_CRASH_SEEDS = 100
test-long: export TIDEMILL_CRASH_ALL_POINTS = 1
test-long: export TIDEMILL_TEST_LONG = 1

demo: setup  ## score real flights with a real model, from nothing to a result
	$(PY) examples/flights/demo.py

test: setup lint $(NODE_INSTALLED)  ## all tests, with 20 seeds of crashes, after `make lint`
	bash tools/need_packages.sh $(PROGRAMS)
	@mkdir -p $(dir $(JUNIT))
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup --junitxml=$(JUNIT) tests
	$(PY) tools/no_skips.py $(JUNIT)
	$(PY) tests/crash/judge.py

test-long: setup $(NODE_INSTALLED)  ## all tests, with 100 seeds of crashes and a kill at every point of the commit path
	bash tools/need_packages.sh $(PROGRAMS)
	@mkdir -p $(dir $(JUNIT))
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup --timeout=1800 --junitxml=$(JUNIT) tests
	$(PY) tools/no_skips.py $(JUNIT)
	$(PY) tests/crash/judge.py

check: lint quick  ## the fast loop: lint, then unit, contract, meta and docs tests

lint: setup  ## format, lint, types, layers; reports sizes
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict src
	$(VENV)/bin/lint-imports --no-cache
	$(PY) tools/sizes.py src

quick: setup
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup tests/unit tests/contract tests/meta tests/docs

bench: setup  ## compare with the floor and with peers; prints ratios
	$(PY) -m benchmarks

reference: setup  ## write the pages of docs/reference that come from the code
	$(PY) tools/reference.py

clean:  ## remove .venv and everything that was built
	rm -rf $(VENV) $(NODE)/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
