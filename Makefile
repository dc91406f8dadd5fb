# `make run` and `make test` are all the set-up there is.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LEROBOT := $(VENV)-lerobot
# For example: make run PIP_FLAGS="--extra-index-url <an index with CPU builds of torch>"
PIP_FLAGS ?=

.PHONY: help install run test lint format types check bench clean

help:
	@echo "make run     install into $(VENV), run the scripted expert on the built-in pack"
	@echo "make test    install and run all tests"
	@echo "make lint    check style and formatting    make format  mend them"
	@echo "make types   check types                   make check   test, lint and types"
	@echo "make bench   measure speed ratios          make clean   remove what make made"

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "make: $(PYTHON) cannot make virtual environments;" \
	    "on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint constraints.txt --editable ".[dev]"
	@touch $@

run: install
	$(BIN)/calvin-eval --ckpt builtin:expert --split D --num-chains 20 video.which=2 $(ARGS)

# LeRobot needs other versions of some packages: they lie over the first environment in a second.
$(LEROBOT)/.installed: $(BIN)/.installed $(wildcard tests/helpers/lerobot_env/*)
	rm -rf $(LEROBOT) && $(PYTHON) -m venv $(LEROBOT)
	$(LEROBOT)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --no-deps --requirement tests/helpers/lerobot_env/requirements.txt
	$(LEROBOT)/bin/python tests/helpers/lerobot_env/overlay.py \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

test: install $(LEROBOT)/.installed
	$(BIN)/pytest --numprocesses 2 -m "not cluster" $(ARGS)
	$(BIN)/pytest -m cluster $(ARGS)
	$(LEROBOT)/bin/python -m pytest tests/wrappers/test_lerobot.py tests/rollouts/test_dataset_checks.py \
	  -k lerobot $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Type checkers do not follow the package-dir mapping, so they get the package as a tree of links.
types: install
	rm -rf build/types && mkdir -p build/types/calvin_eval
	ln -s $(addprefix $(CURDIR)/eval/,$(notdir $(wildcard eval/*))) build/types/calvin_eval/
	ln -s $(foreach f,results rollouts sim vla wrappers,$(CURDIR)/$(f)) build/types/calvin_eval/
	MYPYPATH=build/types $(BIN)/mypy
	MYPYPATH=build/types:benchmarks $(BIN)/mypy --strict --explicit-package-bases benchmarks tools

check: test lint types

bench: install
	$(BIN)/python benchmarks/physics.py
	$(BIN)/python benchmarks/engine.py

clean:
	rm -rf $(VENV) $(LEROBOT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
