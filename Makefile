# Every target makes what it needs, the environment in $(VENV) included; only Python >= 3.11 and a network are assumed.
#
#   make demo        train, kill three times, resume, compare with the uninterrupted twin, draw demo.png
#   make test        the tests; make test-slow: those that take many seconds
#   make check       ruff, mypy, the layers between the packages
#   make format      let ruff rewrite the code
#   make bench       the measurements in benchmarks/
#   make wheel       dist/holdfast-*.whl
#   make clean       remove everything made, the environment included
#
# PYTHON=python3.12 picks another interpreter. On Linux, PyPI's torch brings several GB of CUDA libraries;
# TORCH_INDEX=https://download.pytorch.org/whl/cpu takes the CPU build instead.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow check format bench wheel clean

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

bench: $(READY)
	set -e; for script in benchmarks/*.py; do $(BIN)/python "$$script" $(ARGS); done

wheel: $(READY)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

# A half-made environment has no stamp and is made again from nothing.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "holdfast needs Python 3.11 or newer; this is " + sys.version + "; try PYTHON=python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt -e '.[dev,demo]'
	touch $@

clean:
	rm -rf $(VENV) build dist runs demo.png .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
