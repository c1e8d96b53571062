# Each target alone takes a fresh clone to its end.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Waiting OpenMP threads spin by default, which starves shared cores.
export OMP_WAIT_POLICY = passive

.PHONY: demo test test-slow bench lint clean

demo: $(STAMP)
	$(BIN)/ndae demo --out demo

# A process a core, four at most: most of the time goes into compilation. A file's tests share what they compile.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile

test: $(STAMP)
	$(BIN)/python -m pytest -q $(PARALLEL)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow $(PARALLEL)

bench: $(STAMP)
	$(BIN)/python -m pytest -q experiments/benchmarks --benchmark-only --timeout 0
	$(BIN)/python -m ndae.experiments.benchmarks.step_cost

lint: $(STAMP)
	$(BIN)/ruff check .

# torch goes first and alone: resolved together with the rest, pip may take the CUDA build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .hypothesis
