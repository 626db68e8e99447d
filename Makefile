# Every task of the project, by the names that CI uses too. `make` alone lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3)
STAMP := $(VENV)/.ready
# A module a worker, since its tests share servers; in the order of collection, so that the long ones begin first.
# Two workers more than processors: they wait for processes and disks.
WORKERS := $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 3 ? n + 2 : 4 )))
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SOAK := tests/contract/test_store_kills.py tests/contract/test_power_cuts.py tests/contract/test_store_agreement.py \
	tests/contract/test_store_postgres.py tests/unit/backends/sqlite/test_sqlite_store_damage.py \
	tests/unit/backends/files/test_file_blobs.py tests/contract/test_events_kills.py tests/integration/test_nats_cluster.py \
	tests/integration/test_store_server.py tests/integration/test_blobs_server.py tests/integration/test_conservation.py

help: ## list the tasks
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv with everything in it, and the micro command

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "micro needs Python 3.11 or newer: install it and run make again"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --editable . --group dev
	@touch $@

run: setup ## start a server, run examples/helloworld and call it on its three doors; Ctrl-C ends it
	@$(BIN)/python scripts/demo.py

# Bytecode is written whatever the shell says: rewriting the tests' assertions costs each worker ten seconds.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup ## run every test
	@$(BIN)/python -m pytest $(PARALLEL)

soak: setup ## kill, cut and flip what keeps records, blobs and events, hundreds of times: two hours; MICRO_SOAK=N for N times
	@MICRO_SOAK=$${MICRO_SOAK:-300} $(BIN)/python -m pytest --timeout 7200 $(SOAK)

check: setup ## format, lint, types, import rules, contracts, generated code up to date
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache | tail -n 3
	@$(BIN)/buf lint
	@$(BIN)/python scripts/generate.py --check
	@$(BIN)/python scripts/budgets.py
	@echo "check: all good"

format: setup ## format the code and mend what can be mended
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

gen: setup ## make the code of proto/ anew
	@$(BIN)/python scripts/generate.py

bench: setup ## measure; results on the terminal and in bench/results/
	@$(BIN)/python -m bench

clean: ## remove what was made
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup run test soak check format gen bench clean
