# churnwatch: `make` shows what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

VENV   := .venv
PYTHON := $(VENV)/bin/python
DATA    ?= cdnow
SERVERS ?= embedded

.PHONY: help
help:
	@echo 'churnwatch: who is about to leave, and who could buy more.'
	@echo
	@echo '  make demo                      real customers of a real shop, warnings as they are raised'
	@echo '  make demo DATA=simulated       a made-up shop with browsing and complaints, and a known truth'
	@echo '  make demo DATA=groceries       baskets of a grocery chain, with offers by category'
	@echo '  make demo DATA=path/to/file    your own CSV, NDJSON or Parquet (columns: README.md)'
	@echo '  make demo SERVERS=local        the same on a real Apache Kafka and Redis (needs Java 17, Maven, redis-server)'
	@echo
	@echo '  make test                      what CI runs: ruff, mypy, pytest (14 minutes)'
	@echo '  make test TESTS=tests/streams  only some of the tests'
	@echo '  make chaos                     the fault tests at their full counts; results in bench/results/'
	@echo '  make bench                     speed beside Faust, Quix Streams and bytewax; results in bench/results/'
	@echo '  make soak                      ten minutes of load while everything goes wrong; results in bench/results/'
	@echo '  make quality                   how right the warnings are on three public histories; results in bench/results/'
	@echo '  make lint                      ruff and mypy alone (seconds)'
	@echo '  make format                    let ruff put the code in order'
	@echo '  make lock                      pin the newest versions that pyproject.toml allows, with hashes'
	@echo '  make clean                     remove what was built, but no logs and no data of running servers'
	@echo
	@echo 'Everything is installed into .venv from a list of versions and hashes, nothing outside this folder.'
	@echo 'Needs Python 3.11 or 3.12. Set BASE_PYTHON=/path/to/python to choose one.'

# A Python that runs (a version manager may put names on the PATH that do not), and for which there are wheels.
BASE_PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3 python3.13,$(shell $(p) -c 'import sys, venv, ensurepip; print("$(p)") if sys.version_info >= (3, 11) else None' 2>/dev/null)))

$(VENV)/.made: Makefile
	@if [ -z '$(BASE_PYTHON)' ]; then \
	    echo 'make: needs Python 3.11 or 3.12 with its venv module, and found none on the PATH.' >&2; \
	    echo '      Debian, Ubuntu: apt-get install python3 python3-venv; elsewhere: make BASE_PYTHON=/path/to/python3.12' >&2; \
	    exit 1; fi
	@[ -x $(PYTHON) ] && $(PYTHON) -c '' 2>/dev/null || { echo 'Creating $(VENV) with $(BASE_PYTHON)' >&2; $(BASE_PYTHON) -m venv --clear $(VENV); }
	@touch $@

# One list for those who run it, one that adds what developers need.
PIP_INSTALL = $(PYTHON) -m pip install --disable-pip-version-check --quiet --progress-bar off

$(VENV)/.run: $(VENV)/.made requirements.txt pyproject.toml
	@echo 'Installing what requirements.txt lists (once; about 160 MB)' >&2
	@$(PIP_INSTALL) --require-hashes --no-deps -r requirements.txt
	@$(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@echo 'Installing what requirements-dev.txt lists (once)' >&2
	@$(PIP_INSTALL) --require-hashes --no-deps -r requirements-dev.txt
	@touch $@

.PHONY: install
install: $(VENV)/.dev ## everything, for an editor

.PHONY: lint
lint: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

.PHONY: format
format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

TESTS ?= tests
# What takes minutes alone begins first, so that the others are done beside it.
LONGEST := tests/test_walk_through.py tests/bench tests/test_pages.py tests/agents/test_privileges.py \
           tests/test_documents.py tests/chaos

.PHONY: test
test: lint
	$(VENV)/bin/pytest -m 'not chaos' -n 3 --dist loadfile --no-loadscope-reorder \
	    $(if $(filter tests,$(TESTS)),$(LONGEST)) $(TESTS)

.PHONY: chaos
chaos: $(VENV)/.dev
	$(VENV)/bin/pytest -m chaos $(TESTS)

# BENCH="latency" measures one section, BENCH="--quick" only proves that it works: docs/speed.md.
BENCH ?=
.PHONY: bench
bench: $(VENV)/.dev
	$(PYTHON) -m bench $(BENCH)

# SOAK="--minutes 180" goes on for hours, SOAK="--short" only proves that it works: docs/soak.md.
SOAK ?=
.PHONY: soak
soak: $(VENV)/.dev
	$(PYTHON) -m bench.soak $(SOAK)

.PHONY: quality
quality: $(VENV)/.dev
	$(PYTHON) -m bench.quality

# A real broker and a real Redis of the demo's own, stopped at its end; their logs stay in deploy/local/run/demo/logs.
.PHONY: demo
demo: $(VENV)/.run
ifeq ($(SERVERS),local)
	@export CHURNWATCH_LOCAL_DIR=deploy/local/run/demo; \
	trap 'deploy/local/stop' EXIT; trap 'exit 130' INT TERM; \
	settings=$$(deploy/local/start --fresh) || { trap - EXIT; exit 1; }; eval "$$settings"; \
	$(VENV)/bin/churnwatch demo --data '$(DATA)' --servers given
else
	@exec $(VENV)/bin/churnwatch demo --data '$(DATA)' --servers '$(SERVERS)'
endif

# Universal: one list for every Python from 3.11 on. No address of an index gets into it.
COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
          --no-emit-index-url --no-emit-find-links --no-header

.PHONY: lock
lock: $(VENV)/.dev
	$(COMPILE) --upgrade pyproject.toml --extra embedded --group build --output-file requirements.txt
	$(COMPILE) --upgrade --group dev --constraints requirements.txt --output-file requirements-dev.txt
	$(COMPILE) --upgrade bench/requirements.in --output-file bench/requirements.txt

.PHONY: clean
clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info deploy/local/target
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
