# Everything runs in a virtual environment that the first target to need it makes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
MODELS = models/tiny

.PHONY: demo test test-slow lint zoo zoo-train eval bench fuzz faults clean

demo: zoo  ## scan a suspect and a control, repair the suspect, show the trade-off
	$(BIN)/python -m eval.demo $(MODELS)

test: zoo  ## every test
	$(BIN)/python -m pytest

test-slow: zoo  ## the tests that the quick run leaves out
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

zoo: $(READY)  ## lay the shipped models out as directories under models/
	$(BIN)/python -m eval.zoo build --to $(MODELS)

zoo-train: $(READY)  ## train the base and every model again from nothing
	$(BIN)/python -m eval.zoo train --base

eval: zoo  ## detection and repair on every shipped model
	$(BIN)/python -m eval.benchmark $(MODELS)

bench: $(READY)  ## speed and memory
	$(BIN)/python -m eval.bench.large_scan

fuzz: $(READY)  ## 100,000 hostile inputs
	$(BIN)/python -m eval.fuzz --inputs 100800

faults: $(READY)  ## kills, full disks, changing inputs
	$(BIN)/python -m eval.faults

clean:
	rm -rf models $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
