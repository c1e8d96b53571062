# Each target alone takes a fresh clone to its end.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Waiting OpenMP threads spin by default, which starves shared cores.
export OMP_WAIT_POLICY = passive

.PHONY: demo test test-slow test-lowest bench lint clean

demo: $(STAMP)
	$(BIN)/ndae demo --out demo

# A process a core, four at most: most of the time goes into compilation. A file's tests share what they compile, and files go in
# the order of tests/conftest.py, the longest first.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow $(PARALLEL)

# The lowest versions that pyproject.toml allows, resolved by uv, and a fast part of the suite under them. torch is the pinned
# one, as above.
LOWEST := .venv-lowest
FAST := tests/test_house.py tests/symbolic/test_reduce.py tests/symbolic/test_backends.py tests/solvers/test_start.py \
	tests/solvers/test_projection.py tests/ndae/test_fields.py

test-lowest: $(STAMP)
	$(BIN)/python -m pip install -q uv
	test -x $(LOWEST)/bin/python || $(BIN)/uv venv -q --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install -q --python $(LOWEST)/bin/python --find-links "$${PIP_FIND_LINKS:-.}" --resolution lowest-direct \
		"$$($(BIN)/python -c 'import torch; print(f"torch=={torch.__version__}")')" -e '.[test]'
	$(LOWEST)/bin/python -m pytest -q $(FAST)

bench: $(STAMP)
	$(BIN)/python -m pytest -q experiments/benchmarks --benchmark-only --timeout 0
	$(BIN)/python -m ndae.experiments.benchmarks.step_cost

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# torch goes first and alone: resolved together with the rest, pip may take the CUDA build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) demo .pytest_cache .hypothesis
