# Everything is installed into .venv by the targets themselves; a fresh machine needs Python 3.10 to 3.12 and make.
PYTHON ?= $(shell for v in 3.11 3.12 3.10; do command -v python$$v >/dev/null 2>&1 && { command -v python$$v; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STEPS := preprocessing postprocessing tensorrt_llm_bls trtllm/vision_encoder trtllm/python_enc_dec trtllm/python_executor torch/vision_encoder torch/tensorrt_llm
# One test process per core, each with one thread: torch and Triton would otherwise fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
export TEST_CHECKPOINTS := $(CURDIR)/.checkpoints

.PHONY: check test demo goldens fuzz lint types unit truth server soak wheel clean
.DEFAULT_GOAL := check

$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.10, 3.11 or 3.12 found: install one, or call make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Steps have modules of the same name (model.py), so each folder is checked on its own, as Triton loads it.
types: $(VENV)/installed
	$(BIN)/mypy generator training
	@printf '%s\n' $(STEPS) | xargs -P 2 -I STEP sh -c 'MYPYPATH=typings:templates/shared:templates/STEP/1 \
	  $(BIN)/mypy --cache-dir .mypy_cache/STEP templates/STEP/1/*.py'

LONG := tests/unit/test_crashes.py
unit: $(VENV)/installed
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 tests/unit tests/golden tests/stories --ignore $(LONG)

check: lint types unit

# What the oracles are worth: distinct answers, and every mutation seen; every encoder as ONNX; generation killed anywhere.
truth: $(VENV)/installed
	$(ONE_THREAD) $(BIN)/pytest -q -n 2 tests/truth tests/vision_build tests/training $(LONG)

ALONE := $(patsubst %,tests/server/test_%.py,front torch_llm_streams supervise launch bench benchmarks demo_accuracy)
AGAIN := --reruns 1 --only-rerun 'failed to connect|Connection refused|Socket closed|is not healthy'
# Tests that measure times, or print figures, run alone; the others share the cores, one model's server at a time each. A
# server that a busy machine ended is started again, and the test that it left without an answer runs again; a wrong
# answer fails at once.
server: $(VENV)/installed
	$(ONE_THREAD) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q $(ALONE)
	$(ONE_THREAD) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q -n 2 --dist loadfile $(AGAIN) \
	  tests/server $(ALONE:%=--ignore=%)
	$(ONE_THREAD) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q -n 2 --dist loadgroup $(AGAIN) tests/parity

wheel: $(VENV)/installed
	$(ONE_THREAD) $(BIN)/pytest -q tests/package

test: check truth server wheel

# Not part of the tests: it takes as long as SOAK_REQUESTS (50000) and SOAK_MINUTES (60) allow, and wants the machine alone.
soak: $(VENV)/installed
	$(ONE_THREAD) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.soak.run

# Damaged and hostile inputs for every path that reads something of a client's or a checkpoint's; FUZZ_INPUTS of them for
# each path. `make unit` tries the first few hundred.
FUZZ_INPUTS ?= 1000000
fuzz: $(VENV)/installed
	$(ONE_THREAD) FUZZ_INPUTS=$(FUZZ_INPUTS) $(BIN)/python -m tests.fuzz.run

demo: $(VENV)/installed
	$(ONE_THREAD) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/gen-repo demo

# The checked-in repositories below model_repos/ are what the tests compare with.
goldens: $(VENV)/installed
	$(BIN)/python -m tests.golden.repositories --write
	$(BIN)/python -m tests.golden.readme --write
	$(BIN)/python -m tests.stories.broken_setups --write

clean:
	rm -rf $(VENV) .checkpoints .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
