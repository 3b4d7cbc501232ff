# Two commands on a fresh machine: `make quickstart` and `make test`. They need Python >= 3.10, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help quickstart test tables report lint docs wheel clean
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
	@echo
	@echo "Go on with the commands of the README, after: source $(BIN)/activate"
	@echo "or by their whole path, such as: $(BIN)/lskd-run experiment=muller_mnist plan=true"

# A process a core, one thread each: the networks of the tests are too small for more.
test: $(INSTALLED) ## Environment, then all fast tests (set LSKD_DATA to include those on real data)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

tables: $(INSTALLED) ## Tables and figures of every experiment, from results/
	$(BIN)/lskd-report

report: $(INSTALLED) ## The same as a site for people: results/site/index.html, no network needed
	$(BIN)/lskd-report --html

lint: $(INSTALLED) ## Style and types
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

$(VENV)/.docs: $(INSTALLED)
	@if command -v uv >/dev/null; then \
	  uv pip install --quiet --python "$(VENV)" -e '.[docs]'; \
	else \
	  "$(BIN)/python" -m pip install --quiet -e '.[docs]'; \
	fi
	@touch $@

# A warning, such as of a link that leads nowhere, is an error.
docs: $(VENV)/.docs ## The documentation as a site, in site/: guides, methods, recipes, modules
	$(BIN)/python scripts/docs_site.py build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs build/docs site
	@echo "site/index.html"

wheel: $(INSTALLED) ## A wheel in dist/, with conf/ inside
	$(BIN)/python -m build --wheel

clean: ## Remove the environment and build products; results/ stays
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache
