# One word a task. `make serve` and `make test` set up whatever they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
SYSTEM := caddy chromium-headless-shell curl haproxy nginx-light libnginx-mod-nchan redis-server
# What `newest` and `lowest` run: all but what drives a browser or has the machine to itself.
FAST := --numprocesses 4 --dist worksteal -m "not browser and not alone"

# The tests start many Pythons, and without compiled files each would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install serve test soak newest lowest lock style types floor coverage docs clean
.DEFAULT_GOAL := help

help:  ## Show this.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'feed needs Python 3.11 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || tests/system-packages python3-venv
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# pip cannot hash a folder: first what is locked, the build's own needs too, then the package without looking further.
$(VENV)/feed: $(VENV)/python pyproject.toml requirements/server.txt
	@echo 'Installing feed into $(VENV) (a minute or two the first time) …'
	@$(PIP) --require-hashes -r requirements/server.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/tools: $(VENV)/python pyproject.toml requirements/test.txt
	@echo 'Installing feed and its tools into $(VENV) (a minute or two the first time) …'
	@$(PIP) --require-hashes -r requirements/test.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/feed

$(VENV)/docs: $(VENV)/python requirements/docs.txt
	@echo 'Installing what builds the site into $(VENV) …'
	@$(PIP) --require-hashes -r requirements/docs.txt
	@touch $@

install: $(VENV)/feed  ## Make .venv with feed in it, as it is locked.

serve: install  ## Run the server. Options: make serve ARGS="--port 9000 --log memory:"
	@$(BIN)/feed serve $(ARGS)

test: $(VENV)/tools  ## Run all tests, the slow ones too; about 6 minutes.
	@tests/system-packages $(SYSTEM)
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal --durations 10 $(ARGS)

soak: $(VENV)/tools  ## Run what repeats, counts higher or measures, with its full counts.
	@tests/system-packages $(SYSTEM)
	FEED_SOAK=1 $(BIN)/python -m pytest -m "soak or only_soak" $(ARGS)

newest: $(VENV)/tools  ## Run the fast tests with the newest versions of everything.
	@tests/system-packages $(SYSTEM)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-newest
	$(BIN)/uv pip install --quiet --python $(VENV)-newest --upgrade --group test -e '.[testing]'
	$(VENV)-newest/bin/python -m pytest $(FAST) $(ARGS)

lowest: $(VENV)/tools  ## Run the fast tests with the lowest versions that pyproject.toml allows.
	@tests/system-packages $(SYSTEM)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct --group test -e '.[testing]'
	$(VENV)-lowest/bin/python -m pytest $(FAST) $(ARGS)

lock: $(VENV)/tools  ## Lock the newest versions of what is installed here, with hashes, for all Pythons from 3.11 on.
	$(BIN)/uv pip compile $(LOCK) --upgrade --extra testing --group test -o requirements/test.txt
	$(BIN)/uv pip compile $(LOCK) --extra server -c requirements/test.txt -o requirements/server.txt
	$(BIN)/uv pip compile $(LOCK_DOCS) --upgrade -c requirements/test.txt -o requirements/docs.txt
LOCK = --quiet --universal --python-version 3.11 --generate-hashes --no-header --group build pyproject.toml
LOCK_DOCS = --quiet --universal --python-version 3.11 --generate-hashes --no-header --group docs

style: $(VENV)/tools  ## Check style.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/tools  ## Check types: of the Python, and of the pages' JavaScript.
	$(BIN)/mypy
	$(BIN)/python -m tests.dashboard.types

floor: $(VENV)/tools  ## Fail where the tests of the feed's core reach less of it than they do today.
	@tests/system-packages $(SYSTEM)
	rm -f .coverage*
	$(BIN)/coverage run -m pytest --quiet --numprocesses 4 --dist worksteal $(CORE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --include 'feed/*.py,feed/log/*.py,feed/log/sqlite/*.py' --omit feed/__main__.py \
	  --fail-under 95
# Those that find their faults in this process: what starts servers, Redis for one, would take as long as all tests do.
CORE = tests/feed --ignore tests/feed/client --ignore tests/feed/test_testing.py --ignore-glob '*redis*'

coverage: $(VENV)/tools  ## Say which lines the tests do not reach, in servers of their own too.
	rm -f .coverage*
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --show-missing --skip-covered

# The generator wants all pages in one folder: they are copied as they lie, so that links lead to the same places.
docs: $(VENV)/docs  ## Build the site of these pages, in site/. A dead link fails.
	rm -rf build/pages site
	mkdir -p build/pages
	cp -r *.md docs deploy Dockerfile LICENSE compose.yaml build/pages
	$(BIN)/zensical build --strict --clean

clean:  ## Remove what make has made.
	rm -rf $(VENV) $(VENV)-newest $(VENV)-lowest .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* htmlcov \
	  build dist site test-artifacts tests/system/third_party/node_modules tests/dashboard/types/node_modules \
	  tests/docs/packages/node_modules
