# make quickstart: from a bare machine to a model trained on real text.  make test: the tests.
# the newest that runs here of those that are tested; PYTHON=… takes another
PYTHON ?= $(shell .ci/python 3.13 3.12 3.11)
VENV ?= .venv
WORKDIR ?= runs/quickstart
# processes that share the tests, a file at a time; each takes up to 3 GB
WORKERS ?= 2
BIN := $(VENV)/bin

# a bare machine with one GPU: its own Python with JAX and torch, what it lacks as wheels from a folder
GPU_PYTHON ?= python3
GPU_WHEELS ?= wheels
GPU_OUT ?= gpu-rows.jsonl
GPU_PIP := $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target .gpu-site

.PHONY: quickstart test test-slow lint house clean gpu gpu-wheels

quickstart: $(VENV)/core
	$(BIN)/jaxpt quickstart --workdir=$(WORKDIR)

test: $(VENV)/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(VENV)/dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist load --maxschedchunk 1 -m slow

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the picture of the rooms, drawn from their imports, and the figures of the code
house: $(VENV)/dev
	$(BIN)/python -m benchmarks.house --draw=docs/house.svg

gpu-wheels: $(VENV)/bin/python
	$(BIN)/python -m benchmarks.gpu.wheels $(GPU_WHEELS)

# two commands of at most four minutes each; a row is kept when it is measured
gpu:
	[ ! -d $(GPU_WHEELS) ] || $(GPU_PIP) $(GPU_WHEELS)/*.whl
	PYTHONPATH=.gpu-site:. $(GPU_PYTHON) -m benchmarks.gpu first --out=$(GPU_OUT)
	PYTHONPATH=.gpu-site:. $(GPU_PYTHON) -m benchmarks.gpu second --out=$(GPU_OUT)

# The stamps are made again when setup.py changes; until then the environment is reused.
$(VENV)/bin/python:
	@[ -n "$(PYTHON)" ]
	$(PYTHON) -m venv $(VENV)

$(VENV)/core: $(VENV)/bin/python setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/dev: $(VENV)/bin/python setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,data,eval,serve]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .gpu-site
