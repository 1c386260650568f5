# Everything runs in a virtual environment that the first target to need it makes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
MODELS = models/tiny

.PHONY: demo test lint docs zoo zoo-train eval bench clean

demo: zoo  ## scan a suspect and a control, repair the suspect, show the trade-off
	$(BIN)/python -m eval.demo $(MODELS)

test: zoo  ## every test
	$(BIN)/python -m pytest

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation site, in site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet

zoo: $(READY)  ## lay the shipped models out as directories under models/
	$(BIN)/python -m eval.zoo build --to $(MODELS)

zoo-train: $(READY)  ## train the base and every model again from nothing
	$(BIN)/python -m eval.zoo train --base

eval: zoo  ## detection and repair on every shipped model
	$(BIN)/python -m eval.benchmark $(MODELS)

bench: $(READY)  ## speed and memory
	$(BIN)/python -m eval.bench.large_scan

clean:
	rm -rf models site $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
