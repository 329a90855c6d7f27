# The project's commands. `make help` lists them; each one sets up what it needs, and a second call is quick.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AGENT_IMAGE ?= nats-launch/agent:latest
AGENT_BASE ?= python:3.11-slim
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
FAULT_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup lint format test demo bench soak faults image schemas lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## the environment only: .venv with the locked dependencies

# The stamp is written last, so an interrupted set-up is done again.
$(STAMP): requirements-dev.lock pyproject.toml
	@.ci/python-check "$(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --requirement requirements-dev.lock
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

lint: setup ## ruff, mypy --strict, import contracts, generated schemas are current
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m launch.schemas --check

format: setup ## let ruff fix and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

schemas: setup ## write docs/schemas/ again
	$(BIN)/python -m launch.schemas

test: setup ## the whole suite, on a real nats-server and a real Docker Engine
	.ci/engine run -- $(BIN)/pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

demo: setup ## the main job end to end, with the real commands
	.ci/engine run -- examples/digits/demo

bench: setup ## every measured question beside its floor; BENCH_ARGS such as "--short", "gap start", or "--plot"
	.ci/engine run -- $(BIN)/python -m bench $(BENCH_ARGS)

soak: setup ## a few hundred jobs under random faults; SOAK_ARGS such as "--jobs 1000 --seed 7"
	.ci/engine run -- $(BIN)/python -m bench.soak $(SOAK_ARGS)

faults: setup ## the scaler on EC2 with faults, by seeds; FAULT_ARGS such as "--seeds 200"
	$(BIN)/python -m tests.integration.aws_faults $(FAULT_ARGS)

image: setup ## the agent image; AGENT_BASE and AGENT_IMAGE name the base and the result
	.ci/engine run -- .ci/agent-image "$(AGENT_BASE)" "$(AGENT_IMAGE)"

lock: setup ## resolve the dependencies anew (needs uv)
	.ci/lock

clean: ## remove the environment and everything generated
	rm -rf $(VENV) build dist demo-result .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
