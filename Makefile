# Two commands on a fresh machine: `make quickstart` and `make test`. They need Python >= 3.10, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help quickstart test tables report lint wheel clean
.DEFAULT_GOAL := help

help: ## Explain every target
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

# uv where it is on the PATH (seconds), else venv and pip (a minute). Byte code is compiled ahead: it halves import time.
$(INSTALLED): pyproject.toml
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" "$(VENV)" && \
	  uv pip install --quiet --compile-bytecode --python "$(VENV)" -e '.[dev]'; \
	else \
	  "$(PYTHON)" -m venv "$(VENV)" && "$(BIN)/python" -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $@

# A store of its own: results/ has the same runs already, and what is done never trains again.
quickstart: $(INSTALLED) ## Environment, then a real experiment on bundled data, with its table, verdicts and figure
	$(BIN)/lskd-run experiment=quickstart runtime.results=quickstart_results
	@echo "The commands of the README are in $(BIN): source $(BIN)/activate"

# A process a core, one thread each: the networks of the tests are too small for more.
test: $(INSTALLED) ## Environment, then all fast tests (set LSKD_DATA to include those on real data)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

tables: $(INSTALLED) ## Tables and figures of every experiment, from results/
	$(BIN)/lskd-report

report: $(INSTALLED) ## The same as a site for people: results/site/index.html, no network needed
	$(BIN)/lskd-report --html

lint: $(INSTALLED) ## Style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

wheel: $(INSTALLED) ## A wheel in dist/, with conf/ inside
	$(BIN)/python -m build --wheel

clean: ## Remove the environment and build products; results/ stays
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
