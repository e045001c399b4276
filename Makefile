# make demo    the whole pipeline on the embedded defaults, then one served sample
# make test    the checks and all tests
# make chaos   injects faults, again and again, and writes docs/reliability.md (hours; TRIALS=1 for one of each)
# make check   the checks alone: style, types, layers, configs, README
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

TRIALS ?= 20

.PHONY: demo test chaos check setup lock clean
.DEFAULT_GOAL := demo

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Raydiance needs Python >= 3.11, this is {sys.version.split()[0]}; name another one: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked packages into $(VENV) (once; some minutes, about 2.5 GB)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	@$(BIN)/raydiance demo

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest -q tests/test_layout.py tests/config tests/test_readme.py

test: $(STAMP) check
	@$(BIN)/python -m pytest -n 2 --durations=15

chaos: $(STAMP)
	@PYTHONPATH=. $(BIN)/python -m tests.chaos --trials $(TRIALS)

lock: ## write requirements.lock anew from what is installed in .venv
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed -E 's/\+cpu$$//' > requirements.lock

clean:
	rm -rf outputs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
