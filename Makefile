# The same five words everywhere: demo, up, down, test, lint. `make help` lists all.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo up down status logs test bench lint gen lock clean

help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# A stamp is made only when its install succeeded; a changed lock file renews it.
$(VENV)/.runtime: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=…"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed (on Debian: apt install python3-venv)"; exit 1; }
	@echo "Setting up $(VENV) (once; about a minute)…"
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.txt
	@$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements-dev.txt
	@touch $@

demo: $(VENV)/.runtime ## Start everything, run one execution over REST, stop everything
	@$(BIN)/python examples/demo.py

up: $(VENV)/.runtime ## Start the stack in the background; answers when it is healthy
	@$(BIN)/sandbox up

down: $(VENV)/.runtime ## Stop it and everything it started
	@$(BIN)/sandbox down

status: $(VENV)/.runtime ## What runs, where, since when
	@$(BIN)/sandbox status

logs: $(VENV)/.runtime ## The services' logs
	@$(BIN)/sandbox logs

test: $(VENV)/.dev ## All tests
	@$(BIN)/python -m pytest -n 2 $(ARGS)

bench: $(VENV)/.dev ## Benchmarks: what an execution costs, as ratios within one run
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(VENV)/.dev ## ruff, mypy, buf, generated code, import borders, Envoy's configuration
	@scripts/lint.sh

gen: $(VENV)/.dev ## Make gen/ from proto/
	@scripts/generate.sh
	@$(BIN)/python -m scripts.configuration > docs/configuration.md

lock: ## Renew the lock files from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes pyproject.toml -o requirements.txt
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt

clean: ## Remove the environment and all state
	rm -rf $(VENV) .sandbox
