# Two commands are enough: `make run` and `make test`. Both need python3.11, make and the package index, nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One virtual environment for each peer that is measured beside us.
PEERS := .cache/peers
PEERS_READY := $(patsubst tests/bench/peers/requirements/%.txt,$(PEERS)/%/.ready,$(wildcard tests/bench/peers/requirements/*.txt))

.DEFAULT_GOAL := help
.PHONY: help install run test check accept bench bench-peers lint format docs clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

install: $(READY) ## make the virtual environment

test: $(READY) ## the tests that need nothing but Python
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not peers"

check: $(READY) ## the tests against real peers: bubblewrap, Postgres, a browser, node
	$(BIN)/python -m tests.tools
	$(BIN)/python -m pytest -m peers

accept: $(READY) ## one script per Show: make accept [ONLY=name] [FAST=1]
	$(BIN)/python -m tests.accept $(if $(ONLY),--only $(ONLY)) $(if $(FAST),--fast)

bench: $(READY) ## ratios side by side in one run: make bench [FAST=1]
	$(BIN)/python -m tests.bench $(if $(FAST),--fast)

bench-peers: $(READY) $(PEERS_READY) ## ours beside taskiq, FastStream, Celery and procrastinate: make bench-peers [PEER=name] [FAST=1]
	$(BIN)/python -m tests.bench.peers $(if $(FAST),--fast) $(if $(PEER),--only '$(PEER)')

$(PEERS)/%/.ready: tests/bench/peers/requirements/%.txt $(READY)
	$(PYTHON) -m venv --clear $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --compile-bytecode --requirement $<
	touch $@

lint: $(READY) ## style, types, arrows, documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.documents

format: $(READY) ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## write docs/reference from the registry and the settings
	$(BIN)/python -m tests.documents --write

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

run: $(READY) ## start everything
	$(BIN)/hivebus up
