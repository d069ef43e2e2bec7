# What people and CI call. On a machine with Python 3.11 to 3.13, git and make, `make run` is the whole story.
SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CITY ?=
PORT ?= 5000
PYTHON ?=
READY := .venv/.ready
AIRFLOW := .venv-airflow/.ready
ARGS ?=
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
export MLFLOW_DISABLE_TELEMETRY := true

# `make … CITY=examples/x` works in that city's own workspace, with its own state; otherwise here.
enter = set -euo pipefail; $(if $(CITY),$(absolute_data) root="$$(cityloop city '$(CITY)')"; unset CITYLOOP_STATE; cd "$$root";)
absolute_data = case "$${CITYLOOP_DATA:-/}" in /* | *://*) ;; *) export CITYLOOP_DATA="$$PWD/$$CITYLOOP_DATA";; esac;
# Its dvc.lock is committed before registering, so that a version names a commit which restores everything.
commit_lock = $(if $(CITY),git add dvc.lock; git diff --cached --quiet || git commit -q -m "What this run derived";)

.PHONY: help setup setup-airflow run test e2e browser prometheus lint lock deps ui up down clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  CITY=examples/real_city makes run, ui, up and down work on that city; PYTHON=… names the interpreter to set up with.'

setup: $(READY) ## Make .venv with everything in it (the other targets see to it themselves)

setup-airflow: $(AIRFLOW) ## Make .venv-airflow: Airflow, apart from the rest, as its guide asks

run: $(READY) ## Run the whole loop: data to models (dvc repro), register them in MLflow, have the gate judge them
	@$(enter) python -m pipelines retrain >/dev/null; dvc repro; $(commit_lock) python -m pipelines register --all; \
	python -m pipelines gate --all || [ $$? -eq 4 ]  # 4: judged, and some failed, as it said

test: $(READY) $(AIRFLOW) ## Run the whole test suite, a file in each of up to four processes
	@python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

e2e: $(READY) $(AIRFLOW) ## Run the long tests on real servers too: six tasks over two workers, kills
	@python -m pytest tests/e2e -m ''

browser: ## Install Chromium for the tests of the page, where that can be done
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
	echo 'no Chromium, and no apt-get as root to install it: tests of the page will be skipped'

# Unpacked, not installed: its service would begin to listen. promtool last: who has that has both.
prometheus: $(READY) ## Get Prometheus for `make up`, lint and the tests, where Debian has it
	@command -v promtool >/dev/null || ( place="$$(mktemp -d)"; trap 'rm -rf "$$place"' EXIT; bin="$$PWD/.venv/bin"; cd "$$place"; \
	get() { apt-get -qq -o APT::Sandbox::User=root download prometheus; }; \
	{ get 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && get; }; } && dpkg -x prometheus_*.deb . && \
	mv usr/bin/prometheus usr/bin/promtool "$$bin" ) || \
	echo 'no Prometheus, and no apt-get to get it by: its rules are not checked, tests of it will be skipped'

lint: $(READY) ## Check style, types, who may import whom, and what lies in infra/
	@set -e; ruff check; ruff format --check; mypy; lint-imports; infra/lint.sh

ui: $(READY) ## Open MLflow on what was registered, on this machine only (PORT=5000)
	@$(enter) state="$${CITYLOOP_STATE:-.cityloop}"; mkdir -p "$$state"; state="$$(cd "$$state" && pwd)"; \
	echo "MLflow: http://127.0.0.1:$(PORT)  (Ctrl-C stops it)"; \
	exec mlflow ui --backend-store-uri "sqlite:///$$state/mlflow.db" --host 127.0.0.1 --port $(PORT)

up: $(READY) $(AIRFLOW) ## Start Airflow, MLflow, PostgreSQL, promoter, a server and metrics, kept running (EXECUTOR=celery)
	@$(enter) python '$(CURDIR)/infra/stack/stack.py' up $(ARGS)

down: $(READY) ## End what make up started; data stay
	@$(enter) python '$(CURDIR)/infra/stack/stack.py' down

# torch and what it brings differ by machine (CPU, which CUDA): pyproject.toml pins torch, the lock leaves them out.
lock: $(READY) ## Resolve both locks anew, from pyproject.toml and infra/airflow/requirements.in
	@set -euo pipefail; unset PIP_FIND_LINKS UV_FIND_LINKS; \
	resolve() { uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate "$$@" pyproject.toml; }; \
	left_out="$$(resolve --no-header | sed -nE 's/^((torch|triton|(nvidia|cuda)-[a-z0-9-]+))(\[[^]]*\])?==.*/--no-emit-package \1/p')"; \
	resolve --generate-hashes $$left_out --output-file requirements.lock; \
	uv pip compile --quiet --universal --python-version 3.11 --no-annotate --generate-hashes \
	  --output-file infra/airflow/requirements.lock infra/airflow/requirements.in

deps: $(READY) ## Rewrite dvc.yaml's lists of source files from what the rooms import
	@python tests/stage_deps.py

clean: ## Remove the environment and the tools' caches; data, models and registry stay
	@rm -rf .venv .venv-airflow .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@set -euo pipefail; \
	suits() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; }; \
	if ! suits .venv/bin/python; then \
	  rm -rf .venv; \
	  for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python none; do suits $$python && break; done; \
	  if [ $$python = none ]; then \
	    echo 'error: no Python 3.11, 3.12 or 3.13 with venv found; install one, or name it: make PYTHON=/path/to/python3.12 …' >&2; \
	    exit 1; \
	  fi; \
	  $$python -m venv .venv; \
	fi; \
	[ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet uv; \
	.venv/bin/uv pip install --python .venv/bin/python --compile-bytecode --requirements requirements.lock --editable '.[dev]' \
	  $${PIP_FIND_LINKS:+--find-links "$$PIP_FIND_LINKS"} $${TORCH_BACKEND:+--torch-backend "$$TORCH_BACKEND"}; \
	touch $@

$(AIRFLOW): infra/airflow/requirements.lock | $(READY)
	@set -euo pipefail; [ -x .venv-airflow/bin/python ] || uv venv --quiet --clear --python .venv/bin/python .venv-airflow; \
	uv pip sync --quiet --python .venv-airflow/bin/python --compile-bytecode --require-hashes infra/airflow/requirements.lock; \
	touch $@
