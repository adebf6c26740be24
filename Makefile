# One word a task. `make serve` and `make test` set up whatever they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: help install serve test soak style types coverage clean
.DEFAULT_GOAL := help

help:  ## Show this.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'feed needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || tests/system-packages python3-venv
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/feed: $(VENV)/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/tools: $(VENV)/python pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ $(VENV)/feed

install: $(VENV)/feed  ## Make .venv with feed in it.

serve: install  ## Run the server. Options: make serve ARGS="--port 9000 --log memory:"
	@$(BIN)/feed serve $(ARGS)

test: $(VENV)/tools  ## Run all tests, the slow ones too; under 15 minutes.
	@tests/system-packages caddy chromium curl haproxy nginx-light libnginx-mod-nchan redis-server
	$(BIN)/python -m pytest --numprocesses 3 --dist worksteal $(ARGS)

soak: $(VENV)/tools  ## Run the tests that repeat with their full counts.
	@tests/system-packages chromium curl nginx-light redis-server
	FEED_SOAK=1 $(BIN)/python -m pytest -m soak $(ARGS)

style: $(VENV)/tools  ## Check style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tools  ## Check types.
	$(BIN)/mypy

coverage: $(VENV)/tools  ## Say which lines the tests do not reach, in servers of their own too.
	rm -f .coverage*
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --show-missing --skip-covered

clean:  ## Remove what make has made.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov build dist test-artifacts tests/third_party/node_modules
