# Nothing else to remember: check, test, demo, bench. All set-up happens by itself.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 2
# Seconds for each target of make fuzz, and which targets (all, if none is named).
SECONDS ?= 60
TARGETS ?=

.DEFAULT_GOAL := help
.PHONY: help venv system check format test long fuzz demo bench protos docs clean

help:
	@echo "make check   format, lint, types, import arrows"
	@echo "make test    all tests (as root also the tests as an ordinary user)"
	@echo "make fuzz    look for inputs that break parsers (SECONDS=60 for each, TARGETS='path rpc')"
	@echo "make long    all tests with the longer proofs"
	@echo "make demo    one command from nothing to a governed agent"
	@echo "make bench   measurements beside peers"
	@echo "make system  Debian packages that some tests and peers need (root; tests say what they lack)"
	@echo "make protos  regenerate src/openshell/_proto from proto/"
	@echo "make docs    regenerate the reference pages from the code"

venv: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; choose one with: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

system:
	@deploy/system-packages.sh

check: $(STAMP)
	$(BIN)/ruff format --check src tests benchmarks examples deploy
	$(BIN)/ruff check src tests benchmarks examples deploy
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format src tests benchmarks examples deploy
	$(BIN)/ruff check --fix src tests benchmarks examples deploy

test: $(STAMP)
	@deploy/system-packages.sh --optional
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

fuzz: $(STAMP)
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(TARGETS)

long: $(STAMP)
	OPENSHELL_LONG=1 OPENSHELL_WALK_OPERATIONS=5000 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

demo: $(STAMP)
	@$(BIN)/python examples/demo/demo.py

bench: $(STAMP)
	@$(BIN)/python benchmarks/run.py

protos: $(STAMP)
	$(BIN)/python deploy/generate_protos.py

docs: $(STAMP)
	$(BIN)/python deploy/generate_docs.py

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
