# Every target sets itself up: .venv is made in the clone, and again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench ui slow-test kill-test clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cl_mlm needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/cl-mlm run configs/quickstart.yaml --arm all
	@echo "The MLflow UI: make ui"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not network and not real_model"

slow-test: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu and not network"

kill-test: $(STAMP)
	$(BIN)/python tests/kill --times 200 --seed 0 --jobs 2

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: $(STAMP)
	missed=0; $(BIN)/python benchmarks/startup.py --demo || missed=1; \
	$(BIN)/python -m benchmarks.speed || missed=1; exit $$missed

ui: $(STAMP)
	$(BIN)/cl-mlm ui

clean:
	rm -rf $(VENV) runs mlflow.db mlruns
