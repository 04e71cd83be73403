# `make quickstart` and `make test` set up all that they need, in .venv, once.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Options for the quickstart, e.g. make quickstart ARGS="--seed 1".
ARGS ?=

.PHONY: quickstart test parity-hf lint lock clean

quickstart: $(VENV)/installed
	$(BIN)/t5patches quickstart $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Converted models against Transformers, two versions of it, in environments of their own.
HF = .venv-hf4/installed .venv-hf5/installed
parity-hf: $(VENV)/installed $(HF)
	$(BIN)/python -m benchmarks.parity_hf $(HF:installed=bin/python)

.venv-hf%/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet "torch>=2.9" "transformers==$*.*" sentencepiece protobuf \
	  ctranslate2
	touch $@

lint: $(VENV)/linters
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/basedpyright

$(VENV)/linters: $(VENV)/installed
	$(PIP) --no-build-isolation -c requirements.lock -e ".[dev]"
	touch $@

# Without bytecode of what is never imported: a minute less. TensorFlow's files are half
# of all: with --jobs=2 they are written beside the others. The lock names everything, so
# that nothing need be resolved.
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
TF = ^tensorflow==

$(VENV)/installed: $(VENV)/tensorflow $(VENV)/others
	$(PIP) --no-deps --no-build-isolation -e .
	@# Bytecode, once, also where Python is told to write none: every process would make
	@# its own, for half of the time that it takes to start.
	@unset PYTHONDONTWRITEBYTECODE; $(BIN)/python -c "import tensorflow_datasets, seqio" 2> /dev/null & \
	  $(BIN)/python -c "import clu.metrics, orbax.checkpoint, sacrebleu, spacy" & wait
	touch $@

$(VENV)/tensorflow $(VENV)/others: $(VENV)/made
	grep $(if $(findstring others,$@),-v) "$(TF)" requirements.lock > $@.txt
	$(PIP) --no-compile --no-deps -r $@.txt
	touch $@

$(VENV)/made: setup.py pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "t5patches needs Python 3.11 or later; this is " + sys.version.split()[0] + \
	  ". Name another with make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	touch $@

# Pins every dependency, the test extra's too. Needs uv.
lock:
	uv pip compile --universal --fork-strategy fewest --python-version 3.11 --extra test --upgrade \
	  --no-emit-index-url --no-annotate --output-file requirements.lock setup.py

clean:
	rm -rf $(VENV) .venv-hf* build dist *.egg-info
