# Every target bootstraps what it needs: Python 3.11+ and make are enough.
# `make demo` and `make test` are the two commands a newcomer needs.

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := libs/contracts libs/common libs/client libs/devstack db \
    services/ingest services/hotcache services/query services/cdc-reconciler bench
STATE ?= .atlas

.PHONY: help setup demo test lint proto up down status bench lock clean
help: ## Show the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/ready ## Make .venv with all dependencies at their locked versions.

.venv/ready: requirements.lock tools/setup $(addsuffix /pyproject.toml,$(PACKAGES))
	@tools/setup $(PYTHON) $(PACKAGES)
	@touch $@
