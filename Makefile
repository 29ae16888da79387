# `make demo` and `make test` set everything up by themselves; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
# Groups of tests side by side on up to four cores; tests/conftest.py says which tests stay together.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder

# The tiers run one after the other, also with make -j: they would take each other's cores.
.NOTPARALLEL:
.PHONY: help demo test test-all test-slow test-tensorrt lint type bench build readme clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(STAMP): pyproject.toml setup.py constraints.txt rrise/VERSION $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,report,dev]'
	touch $(STAMP)

demo: $(STAMP) ## real digits -> certificates, and a report beside Monte Carlo (runs/digits)
	$(BIN)/rrise run digits

test: $(STAMP) ## the quick tier: at most three minutes on two cores; no network
	$(PYTEST)

test-all: test test-slow test-tensorrt ## the full tier: all tests there are

test-slow: $(STAMP) ## what the full tier has beyond the quick: README, examples, recipes, Ray, long statistics, wheels
	$(PYTEST) -m slow --durations=15

$(VENV)/tensorrt-%: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ tensorrt-cu13-bindings==$*

test-tensorrt: $(VENV)/tensorrt-11.4.0.106 $(VENV)/tensorrt-10.16.1.11 ## the names of TensorRT's API, against NVIDIA's own modules
	for folder in $^; do RRISE_TENSORRT_BINDINGS=$$PWD/$$folder $(BIN)/python -m pytest -m '' tests/test_tensorrt_api.py || exit 1; done

lint: $(STAMP) ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(STAMP) ## mypy, strict on rrise/
	$(BIN)/mypy

bench: $(STAMP) ## every speed ratio the README quotes
	$(BIN)/python benchmarks/kernel.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/sampling.py --threads 2 --rounds 5 --only digits-mixer --neighbour
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/certifier.py
	test ! -d runs/digits/bundles/scaled || $(BIN)/python benchmarks/certifier.py runs/digits/bundles/scaled
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/single_pass.py
	$(BIN)/python benchmarks/engines.py

build: $(STAMP) ## sdist and wheel into dist/
	$(BIN)/python -m build

clean: ## remove what was built (keeps .venv and runs)
	rm -rf build dist *.egg-info rrise/*.so
