# `make demo` and `make test` do all the set-up: Python 3.11 to 3.13 is all they need.
PYTHON ?= python3
VENV := .venv
BENCH := .venv-benchmark
RUN := TF_CPP_MIN_LOG_LEVEL=3 $(VENV)/bin/python

.PHONY: demo test test-all lint format bench dist clean

demo: $(VENV)/.installed
	$(RUN) bin/demo.py --workdir=demo_output

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow" -n 2 --dist=loadfile

test-all: $(VENV)/.installed
	$(RUN) -m pytest -n 2 --dist=loadfile

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.installed $(BENCH)/.installed
	$(RUN) -m benchmarks.run --torch_python=$(BENCH)/bin/python --out=benchmark.json

dist: $(VENV)/.installed
	$(VENV)/bin/python -m build

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

$(BENCH)/.installed:
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet "torch==2.13.0" numpy
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) build dist *.egg-info demo_output
