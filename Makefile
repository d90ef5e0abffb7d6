# Every target sets itself up: .venv is made in the clone, and again only when pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEFAULT := "not slow and not gpu and not network and not real_model and not conformance"
TIMES ?= 200
FAULTS ?= 100

.PHONY: demo test unit-test coverage lint docs bench ui slow-test conformance kill-test fault-test disk-test mutants clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cl_mlm needs Python 3.11 or newer; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/cl-mlm run configs/quickstart.yaml --arm all
	@echo "The MLflow UI: make ui"

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m $(DEFAULT)

# Without what runs whole experiments: what is asked again and again while code is written.
unit-test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m $(DEFAULT)" and not whole_run"

coverage: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m $(DEFAULT) --cov --cov-report term

slow-test: $(STAMP)
	$(BIN)/python -m pytest -m "slow and not gpu and not network"

# Every strategy on every objective: twice with two threads, and with weight 0 beside naive.
conformance: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/conformance tests/cl_mlm/models/test_virtual_tokens.py

# In every amount of room, from none to enough.
disk-test: $(STAMP)
	$(BIN)/python tests/disk --step 16

kill-test: $(STAMP)
	$(BIN)/python tests/kill --times $(TIMES) --seed 0 --jobs 2

# Damages folders of runs and gives the command again: repaired to the bit, or refused by name.
fault-test: $(STAMP)
	$(BIN)/python tests/faults --times $(FAULTS) --seed 0 --jobs 2

mutants: $(STAMP)
	$(BIN)/python tests/mutants --times 150 --seed 0 --jobs 2

# All four say what they find, also where the first has found something.
lint: $(STAMP)
	faults=0; for tool in "ruff check ." "ruff format --check ." mypy pyright; do $(BIN)/$$tool || faults=1; done; exit $$faults

# Nothing is fetched while the site is built, only when its tools are installed.
$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(STAMP)
	missed=0; $(BIN)/python benchmarks/startup.py --demo || missed=1; \
	$(BIN)/python -m benchmarks.fisher || missed=1; \
	$(BIN)/python -m benchmarks.writing || missed=1; \
	$(BIN)/python -m benchmarks.lora || missed=1; \
	$(BIN)/python -m benchmarks.speed || missed=1; exit $$missed

ui: $(STAMP)
	$(BIN)/cl-mlm ui

clean:
	rm -rf $(VENV) runs mlflow.db mlruns site
