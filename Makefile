# Every target makes what it needs, the environment in $(VENV) included; only Python >= 3.11 and a network are assumed.
#
#   make demo        train, kill three times, resume, compare with the uninterrupted twin, draw demo.png
#   make test        the tests; make test-slow: those that take many seconds
#   make check       ruff, mypy, the layers between the packages
#   make format      let ruff rewrite the code
#   make bench       holdfast beside every peer and this machine's limits; writes docs/performance.md
#   make bench-own   what holdfast costs where nothing is saved, and whether Overhead keeps its bound
#   make wheel       dist/holdfast-*.whl
#   make clean       remove everything made, the environment included
#
# PYTHON=python3.12 picks another interpreter. On Linux, PyPI's torch brings several GB of CUDA libraries;
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the CPU build instead.

PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(BENCH_VENV)/.ready

.PHONY: demo test test-slow check format bench bench-own bench-environment wheel clean

demo: $(READY)
	$(BIN)/python examples/digits/demo.py $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(BENCH_READY)
	$(BENCH_VENV)/bin/python benchmarks/speed.py $(ARGS)

bench-own: $(READY)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/footprint.py

bench-environment: $(BENCH_READY)

wheel: $(READY)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

# A half-made environment has no stamp and is made again from nothing. The peers of the benchmark have one of their own.
$(READY): EXTRAS := dev,demo
$(BENCH_READY): EXTRAS := bench
$(READY) $(BENCH_READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "holdfast needs Python 3.11 or newer; this is " + sys.version + "; try PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist runs demo.png .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
