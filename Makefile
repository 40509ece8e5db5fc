# Every target bootstraps what it needs: Python 3.11+ and make are enough.
# `make demo` and `make test` are the two commands a newcomer needs.

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := libs/contracts libs/common libs/client libs/devstack db \
    services/ingest services/hotcache services/query services/cdc-reconciler bench
STATE ?= .atlas

.PHONY: help setup demo test drills chaos lint terraform sbom proto up down status bench lock clean secrets compose
help: ## Show the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: .venv/ready ## Make .venv with all dependencies at their locked versions.

.venv/ready: requirements.lock tools/setup $(addsuffix /pyproject.toml,$(PACKAGES))
	@tools/setup $(PYTHON) $(PACKAGES)
	@touch $@

demo: setup ## Start the whole platform, feed it this machine's telemetry for a minute, prove that nothing got lost.
	@$(BIN)/atlas demo --seconds $(or $(SECONDS),60)

test: setup ## Run all tests against real servers.
	@$(BIN)/pytest $(ARGS)

drills: setup ## Cause disasters, end them by the scripts of ops/recovery; RECORD=1 writes the durations down.
	@$(BIN)/pytest tests/drills -n0 $(if $(RECORD),--record) $(ARGS)

chaos: setup ## Do random faults to the write path for SECONDS (600), audit every point; SEED repeats a run.
	@$(BIN)/pytest tests/chaos/soak.py -n0 -o log_cli=true --log-cli-level=INFO --log-cli-format='%(asctime)s %(message)s' \
	    --soak-seconds=$(or $(SECONDS),600) $(if $(SEED),--soak-seed=$(SEED))

lint: setup ## ruff, mypy --strict, import rules, buf lint + breaking, stubs current, squawk, terraform fmt.
	@tools/lint

terraform: setup ## Check terraform/: the format always; plans, tests and checkov where the kit or a network is there.
	@tools/terraform $(ARGS)

sbom: setup ## Write what is in each image, as CycloneDX, into sbom/.
	@$(BIN)/python tools/sbom.py sbom

proto: setup ## Generate libs/contracts from protos/.
	@tools/proto

up: setup ## Start the platform in the foreground (Ctrl-C stops it).
	@$(BIN)/atlas up --state $(STATE)

down: setup ## Stop a platform that was left running.
	@$(BIN)/atlas down --state $(STATE)

status: setup ## Show what runs.
	@$(BIN)/atlas status --state $(STATE)

secrets: ## Make the files in .compose/ that docker-compose.yml reads as secrets; those there are stay.
	@$(PYTHON) tools/compose_secrets.py

compose: secrets ## Build and start everything in containers; PROFILE=full has Kafka, Debezium, Grafana and so on.
	@docker compose $(if $(filter full,$(PROFILE)),--env-file ops/compose/full.env,--profile core) up --build --wait

bench: setup ## Measure ingest and reads against raw baselines; ARGS=--quick for rough figures.
	@$(BIN)/atlas bench ingest $(ARGS)
	@$(BIN)/atlas bench read $(ARGS)

lock: setup ## Resolve the dependencies anew (UPGRADE=1 takes newer versions).
	@tools/lock

clean: ## Remove what setup and the tools made.
	@rm -rf .venv .venv-terraform .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
